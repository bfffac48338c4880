#!/usr/bin/env bash
# Qwen2-VL 2B pruned inside and before the language model: ./demo_qwenvl2.sh [MODEL_FOLDER] [more run.py flags]
# scripts/demo.sh says how it runs and which variables it heeds.
set -euo pipefail

model=qwen2vl2b
needs="a GPU with about 8 GB (2B in bfloat16)
  Qwen2-VL 2B Instruct (Qwen/Qwen2-VL-2B-Instruct): fetched from the hub unless it is in its cache, or in MODEL_FOLDER"
# FastV beside it: the release's Qwen demos lack the flag for sequential pruning, so FastV is what they ran.
grid=(qwen2vl2b_full qwen2vl2b_{seqprune,fastv}_r{50,75,90,100}k{2,3,5})
study=configs/qwen2vl.yaml
work=results/demo_qwenvl2

# shellcheck source=scripts/demo.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/demo.sh"
