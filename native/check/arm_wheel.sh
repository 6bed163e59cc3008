#!/usr/bin/env bash
# Builds the wheel for 64-bit ARM Linux on this machine and checks the compiled module in it.
#
#   native/check/arm_wheel.sh FOLDER
#
# PYTHON names an interpreter that has the build tools of pyproject.toml. Its headers serve: of the
# stable ABI they say the same on every 64-bit Linux.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=${1:?"usage: arm_wheel.sh FOLDER"}
python=${PYTHON:-python3}

native/check/arm.sh --tools-only
# The oldest C library that the wheel's name promises to do with: Raspberry Pi OS 12, Ubuntu 22.04.
tag=manylinux_2_34_aarch64
mkdir -p "$folder"
rm -f "$folder"/*_aarch64.whl
_PYTHON_HOST_PLATFORM=$tag PATH="$(dirname "$python"):$PATH" "$python" -m pip -qq \
    --disable-pip-version-check wheel --no-deps --no-build-isolation -w "$folder" \
    -C cmake.args=--toolchain=aarch64-linux-gnu.cmake .
"$python" tests/packaging/wheel_elf.py "$folder"/*_aarch64.whl
