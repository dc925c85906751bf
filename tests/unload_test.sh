#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Usage: unload_test.sh PROGRAM LIBRARY
exec "$1" "./$2"
