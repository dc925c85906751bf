#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The example runs and finds the token that it looks for: its value is nearly all that attention returns.
set -eu
output=$("$1")
echo "$output"
case $output in
"kept 512 of 16384 tokens, token 12345 among them; "*) ;;
*) exit 1 ;;
esac
echo "$output" | awk '{ gave = $12; value = $NF; exit !(gave - value < 0.002 && value - gave < 0.002) }'
