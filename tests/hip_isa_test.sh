#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# No kernel of a decode keeps anything in scratch, and the loops whose cycles are counted are there. Usage: hip_isa_test.sh OBJECT...
set -eu
exec python3 tools/hip_isa.py --speed "$@"
