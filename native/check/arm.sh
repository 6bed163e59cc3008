#!/usr/bin/env bash
# Tries every kernel on emulated ARM CPUs: a Raspberry Pi 4's, a Pi 5's, and all that QEMU knows.
#
#   native/check/arm.sh [--quick | --kernels] [--if-installed] [--tools-only] [--build-only]
#
# --quick tries every seventh case; --kernels takes every kernel away in turn, and the cases must
# notice (es_check); --if-installed leaves missing tools missing and says so;
# --tools-only stops when the tools are there, --build-only when build/arm is.
# CMAKE and NINJA name those two programs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

what="" if_installed="" tools_only="" build_only=""
for argument in "$@"; do
    case "$argument" in
    --quick | --kernels) what=$argument ;;
    --if-installed) if_installed=1 ;;
    --tools-only) tools_only=1 ;;
    --build-only) build_only=1 ;;
    *) echo "arm.sh: unknown argument $argument" >&2 && exit 2 ;;
    esac
done

missing() {
    local tool
    for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
        command -v "$tool" > /dev/null || echo "$tool"
    done
}

packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
if [ -n "$(missing)" ] && [ -z "$if_installed" ] && [ "$(id -u)" = 0 ] &&
    command -v apt-get > /dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq --no-install-recommends "${packages[@]}" > /dev/null
fi
if [ -n "$(missing)" ]; then
    echo "NOT CHECKED: kernels for 64-bit ARM, without" $(missing)
    echo "On Debian or Ubuntu: sudo apt-get install ${packages[*]}"
    [ -n "$if_installed" ] && exit 0 || exit 1
fi
if [ -n "$tools_only" ]; then
    exit 0
fi

# Static, so that the emulator needs no libraries of the other machine.
build=build/arm
"${CMAKE:-cmake}" -G Ninja -DCMAKE_MAKE_PROGRAM="${NINJA:-ninja}" -S native -B "$build" \
    --toolchain aarch64-linux-gnu.cmake -DCMAKE_BUILD_TYPE=Release -DES_MODULE=OFF \
    -DES_WERROR=ON -DCMAKE_EXE_LINKER_FLAGS=-static > /dev/null
"${CMAKE:-cmake}" --build "$build" --target es_check es_run -- --quiet
if [ -n "$build_only" ]; then
    exit 0
fi

# A CPU of QEMU's and the instruction set that has to be chosen on it.
for pair in cortex-a72:neon cortex-a76:neondot max:neondot; do
    cpu=${pair%%:*}
    echo "emulated $cpu"
    qemu-aarch64 -cpu "$cpu" "$build/es_check" $what --expect "${pair##*:}" |
        tee "$build/$cpu.log"
done
for cpu in cortex-a72 cortex-a76 max; do
    echo "$cpu: $(tail -n 1 "$build/$cpu.log")"
done
