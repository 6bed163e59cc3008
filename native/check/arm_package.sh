#!/usr/bin/env bash
# Runs the wheel for 64-bit ARM, with Debian's arm64 Python, on emulated ARM CPUs: logits of the
# default model and of tiny ones must have the same bits as on this machine, and a chat the same words.
#
# Downloads that Python and wheels for it into build/arm-python (60 MB, once) and installs nothing.
# PYTHON names this machine's interpreter that has edgesparse and the tools to build it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
here=$PWD/build/arm-python

if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
    echo "NOT CHECKED: the package on 64-bit ARM; that needs Debian's apt-get and dpkg-deb"
    exit 0
fi
native/check/arm_wheel.sh build/arm-wheel

# An apt of its own, so that this system's lists and architectures stay as they are.
if [ ! -x "$here/root/usr/bin/python3" ]; then
    rm -rf "$here" && mkdir -p "$here"/{root,debs,state/lists/partial,cache/archives/partial}
    touch "$here/status"
    apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64
        -o Dir::State="$here/state" -o Dir::State::status="$here/status" -o Dir::Cache="$here/cache"
        -o APT::Sandbox::User=root)
    "${apt[@]}" update
    "${apt[@]}" install --download-only --no-install-recommends -y \
        libpython3-stdlib libstdc++6 python3-minimal > /dev/null
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

rm -rf "$here/package"
"$python" -m zipfile -e build/arm-wheel/*.whl "$here/package"

chat=(-m edgesparse chat -p "Say hello." -st -n 8 --temp 0)
"$python" native/check/same_logits.py models/tiny > "$here/here.txt"
(cd "$here" && "$python" "${chat[@]}") > "$here/said-here.txt" # away from this folder's package
failed=0
for cpu in cortex-a72 cortex-a76 max; do
    there=(env "PYTHONPATH=$here/package:$here/site" "${emulated[@]}" -cpu "$cpu"
        "$root/usr/bin/python3")
    "${there[@]}" native/check/same_logits.py models/tiny > "$here/$cpu.txt"
    (cd "$here" && "${there[@]}" "${chat[@]}") > "$here/said.txt"
    if diff "$here/here.txt" "$here/$cpu.txt" && diff "$here/said-here.txt" "$here/said.txt"; then
        echo "$cpu: $(wc -l < "$here/$cpu.txt") models, the same logits and words as here"
    else
        echo "$cpu: FAILED, other logits or words"
        failed=1
    fi
done
exit $failed
