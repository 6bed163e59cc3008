#!/usr/bin/env bash
# Runs the package itself, with Debian's arm64 Python, on emulated ARM CPUs: logits of the default
# model and of tiny ones must have the same bits as on this machine.
#
# Downloads that Python and wheels for it into build/arm-python (60 MB, once) and installs nothing.
# PYTHON names this machine's interpreter that has edgesparse.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
here=$PWD/build/arm-python

if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
    echo "NOT CHECKED: the package on 64-bit ARM; that needs Debian's apt-get and dpkg-deb"
    exit 0
fi
native/check/arm.sh --build-only

# An apt of its own, so that this system's lists and architectures stay as they are.
if [ ! -x "$here/root/usr/bin/python3" ]; then
    rm -rf "$here" && mkdir -p "$here"/{root,debs,state/lists/partial,cache/archives/partial}
    touch "$here/status"
    apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64
        -o Dir::State="$here/state" -o Dir::State::status="$here/status" -o Dir::Cache="$here/cache"
        -o APT::Sandbox::User=root)
    "${apt[@]}" update
    "${apt[@]}" install --download-only --no-install-recommends -y \
        libpython3-dev libstdc++6 python3-minimal > /dev/null
    for package in "$here"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$here/root"
    done
fi
root=$here/root
version=$(readlink "$root/usr/bin/python3") # python3.11
version=${version#python}
emulated=(qemu-aarch64 -L "$root" -E "LD_LIBRARY_PATH=$root/usr/lib/aarch64-linux-gnu")

if [ ! -d "$here/site" ]; then
    platforms=(--platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64)
    "$python" -m pip download -qq --only-binary=:all: "${platforms[@]}" --implementation cp \
        --python-version "$version" --abi "cp${version/./}" --abi abi3 --abi none \
        --dest "$here/wheels" numpy numba cffi sentencepiece tokenizers jinja2 prompt_toolkit
    for wheel in "$here"/wheels/*.whl; do
        "$python" -m zipfile -e "$wheel" "$here/site"
    done
fi

# The package as it is now, with a module for that Python.
rm -rf "$here/package" && mkdir -p "$here/package"
cp -r edgesparse models "$here/package/"
find "$here/package" -name '*.so' -delete
"$python" native/build.py native/include/edgesparse.h "$here/module.c" > /dev/null
aarch64-linux-gnu-gcc -O2 -w -shared -fPIC -fvisibility=hidden -DPy_LIMITED_API=0x030a0000 \
    -I"$root/usr/include/python$version" -idirafter "$root/usr/include" \
    -idirafter "$root/usr/include/aarch64-linux-gnu" -Inative/include \
    "$here/module.c" build/arm/libes_core.a -lm -pthread \
    -o "$here/package/edgesparse/_native/_edgesparse.abi3.so"

"$python" native/check/same_logits.py models/tiny > "$here/here.txt"
failed=0
for cpu in cortex-a72 cortex-a76 max; do
    PYTHONPATH=$here/package:$here/site "${emulated[@]}" -cpu "$cpu" "$root/usr/bin/python3" \
        native/check/same_logits.py models/tiny > "$here/$cpu.txt"
    if diff "$here/here.txt" "$here/$cpu.txt"; then
        echo "$cpu: $(wc -l < "$here/$cpu.txt") models, the same logits as here"
    else
        echo "$cpu: FAILED, other logits"
        failed=1
    fi
done
exit $failed
