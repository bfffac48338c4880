#!/usr/bin/env bash
# LLaVA-1.5 7B pruned inside and before the language model: ./demo_llava.sh [MODEL_FOLDER] [more run.py flags]
# scripts/demo.sh says how it runs and which variables it heeds.
set -euo pipefail

model=llava
needs="a GPU with about 20 GB (7B in bfloat16)
  LLaVA-1.5 7B (llava-hf/llava-1.5-7b-hf) and the CLIP of its tower: fetched from the hub unless they are in its cache, or in
  MODEL_FOLDER (transformers' layout or LLaVA's own) and MODEL_FOLDER/clip"
grid=(llava_full llava_seqprune_r{50,75,90}k{2,3,5})
study=configs/llava.yaml
work=results/demo_llava

# shellcheck source=scripts/demo.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/demo.sh"
