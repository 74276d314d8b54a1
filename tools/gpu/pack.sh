#!/usr/bin/env bash
# Packs what run.py needs on a machine with a GPU into folders of less than 56 MiB: OUT/1 with everything of Blaze's, and if it is
# given ONNX Runtime's CUDA build in as many more as it takes. Each travels with the repository's own files, 64 MiB together.
#   tools/gpu/pack.sh OUT [ONNXRUNTIME [ARCHITECTURE]]
# ONNXRUNTIME: a folder with lib/libonnxruntime_providers_cuda.so, as fetch_onnxruntime.py --package onnxruntime-gpu leaves it.
# ARCHITECTURE: the only GPUs it is for, as in 90; all: the library as it is, which takes several folders.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
out=$1 onnxruntime=${2-} architecture=${3-90}
piece_bytes=$((50 << 20)) folder_bytes=$((56 << 20))

rm -rf "$out"
mkdir -p "$out"/1/{bin,lib/onnxruntime,cuda,fake}
first=$out/1
cp tools/gpu/run.py tools/gpu/models.py "$first"/
cp target/c/gpu_model target/c/gpu_direct target/c/gpu_driver "$first"/bin/
cp target/release/libblaze.so "$first"/lib/libblaze.so.0
if [ -e target/release/libblaze_cuda.so ]; then cp target/release/libblaze_cuda.so "$first"/lib/; fi
cp -L target/onnxruntime/lib/libonnxruntime.so "$first"/lib/onnxruntime/
cp target/onnxruntime/LICENSE target/onnxruntime/ThirdPartyNotices.txt "$first"/lib/onnxruntime/
cp tests/cuda/kernels.ptx "$first"/cuda/
if [ -e target/fakecuda/libfakecuda.so ]; then cp target/fakecuda/libfakecuda.so "$first"/fake/; fi

if [ -n "$onnxruntime" ]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mkdir "$scratch/lib"
    cp -L "$onnxruntime/lib/libonnxruntime.so" "$onnxruntime"/lib/libonnxruntime_providers_{shared,tensorrt}.so "$scratch/lib/"
    cuda=libonnxruntime_providers_cuda.so
    if [ "$architecture" = all ]; then cp "$onnxruntime/lib/$cuda" "$scratch/lib/"
    else python3 tools/gpu/prune.py "$onnxruntime/lib/$cuda" "$scratch/lib/$cuda" "$architecture"; fi
    (cd "$scratch/lib" && sha256sum -- * > SHA256SUMS && tar --owner=0 --group=0 -cf - -- * | xz -9 -T2 > ../all.tar.xz)
    split -b "$piece_bytes" -d -a 2 "$scratch/all.tar.xz" "$scratch/piece."
    pieces=("$scratch"/piece.*)
    for i in "${!pieces[@]}"; do
        folder=$out/$((i + 2)) name=onnxruntime.$((i + 1))of${#pieces[@]}.piece
        mkdir -p "$folder"
        mv "${pieces[$i]}" "$folder/$name"
        (cd "$folder" && sha256sum "$name" > "$name.sha256")
        cp tools/gpu/run.py tools/gpu/models.py "$folder"/
    done
fi
for folder in "$out"/*; do
    bytes=$(du -sb "$folder" | cut -f 1)
    [ "$bytes" -lt "$folder_bytes" ] || { echo "pack.sh: $folder has $bytes bytes, more than 56 MiB" >&2; exit 1; }
    echo "$folder: $((bytes >> 20)) MiB"
done
