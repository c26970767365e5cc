#!/usr/bin/env bash
# Builds llama.cpp, the peer of this folder's comparisons, from the source that a PyPI package carries.
#   build_llama_cpp.sh [--avx2] DIR     some 12 minutes on two cores; needs python3 (with venv) and a C++ compiler
# Its programs are then in DIR/llama.cpp/build/bin. With --avx2 the build is restricted to AVX2, FMA and F16C, whatever
# this machine has, and goes to DIR/llama.cpp/build-avx2/bin.
set -euo pipefail
version=0.3.36
programs=(llama-batched-bench llama-server llama-perplexity llama-quantize)

usage() {
  sed -n '2,5s/^# *//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

build=build
# What this machine has: the fastest that llama.cpp offers here.
instructions=(-DGGML_NATIVE=ON)
if [[ ${1:-} == --avx2 ]]; then
  build=build-avx2
  instructions=(-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON
    -DGGML_BMI2=ON -DGGML_AVX_VNNI=OFF -DGGML_AVX512=OFF -DGGML_AVX512_VBMI=OFF -DGGML_AVX512_VNNI=OFF
    -DGGML_AVX512_BF16=OFF)
  shift
fi
[[ $# == 1 && $1 != -* ]] || usage
dir=$(mkdir -p "$1" && cd "$1" && pwd)
source=$dir/llama.cpp
bin=$source/$build/bin

built() {
  local program
  for program in "${programs[@]}"; do
    [[ -x $bin/$program ]] || return 1
  done
}

if built; then
  echo "already built: $bin"
  exit 0
fi

[[ -x $dir/venv/bin/python ]] || python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet cmake ninja scikit-build-core
export PATH=$dir/venv/bin:$PATH
if [[ ! -d $source ]]; then
  # pip checks what it fetches; nothing of the package is built.
  (cd "$dir" && pip download --quiet --no-deps --no-build-isolation --no-binary llama-cpp-python \
    "llama-cpp-python==$version")
  unpacked=$dir/llama_cpp_python-$version
  tar xzf "$unpacked.tar.gz" -C "$dir"
  mv "$unpacked/vendor/llama.cpp" "$source"
  rm -rf "$unpacked" "$unpacked.tar.gz"
fi
cmake -S "$source" -B "$source/$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "${instructions[@]}" \
  -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF >/dev/null
ninja -C "$source/$build" "${programs[@]}"
echo "built: $bin"
