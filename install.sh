#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds and installs the header, both libraries, hattn.pc and the hattn command.
#   --prefix DIR    where they will live
#   --destdir DIR   put in front of the prefix for the copy only (packages)
#   --from DIR      take libhattn.so.0, libhattn.a and tools/hattn from DIR (bazel-bin) instead of building them
set -eu
usage() {
    echo "usage: ./install.sh --prefix DIR [--destdir DIR] [--from DIR]" >&2
    exit 2
}

prefix= destdir= from=
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
    --prefix) prefix=$2 ;;
    --destdir) destdir=$2 ;;
    --from) from=$2 ;;
    *) usage ;;
    esac
    shift 2
done
[ -n "$prefix" ] || usage
absolute() {
    case $1 in
    /* | "") printf '%s\n' "$1" ;;
    *) printf '%s\n' "$PWD/$1" ;;
    esac
}
prefix=$(absolute "$prefix") destdir=$(absolute "$destdir") from=$(absolute "$from")
# What pkg-config prints as it is, or drops, no quoting in hattn.pc can mend.
case $prefix in
*[\(\)\$[:cntrl:]]* | *" ")
    echo "install.sh: --prefix has a character that pkg-config cannot pass on: ( ) \$, a control character, or a space at its end" >&2
    exit 2
    ;;
esac

cd "$(dirname "$0")"
if [ -z "$from" ]; then
    . third_party/apt.sh
    . third_party/bazel.sh
    [ -e bazel-bin/libhattn.a ] ||
        tell_build "the libraries and the hattn command" "the first time takes about a minute on two cores, with CUDA about four"
    quiet_bazel build -c opt //:libhattn.so.0 //:libhattn.a //tools:hattn
    from=bazel-bin
fi

version_part() {
    sed -n "s/^#define HATTN_VERSION_$1 \([0-9][0-9]*\)$/\1/p" api/hattn.h
}
version=$(version_part MAJOR).$(version_part MINOR).$(version_part PATCH)

root=$destdir$prefix
install -d "$root/include" "$root/lib/pkgconfig" "$root/bin"
install -m 644 api/hattn.h "$root/include/hattn.h"
install -m 755 "$from/libhattn.so.0" "$root/lib/libhattn.so.0"
ln -sf libhattn.so.0 "$root/lib/libhattn.so"
install -m 644 "$from/libhattn.a" "$root/lib/libhattn.a"
install -m 755 "$from/tools/hattn" "$root/bin/hattn"
# Escaped once for pkg-config, which reads words as a shell does, and once for sed.
escaped=$(printf '%s\n' "$prefix" | LC_ALL=C sed -e "s/[][ \\\\'\"&|;<>*?\`#!%{}]/\\\\&/g" -e 's/[\\&|]/\\&/g')
sed -e "s|@PREFIX@|$escaped|" -e "s|@VERSION@|$version|" hattn.pc.in >"$root/lib/pkgconfig/hattn.pc"
printf '%s\n' "hattn $version installed in $root"
