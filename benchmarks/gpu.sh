#!/usr/bin/env bash
# All measurements that need a GPU, a few minutes each: benchmarks/gpu.sh [OUT [PART...]]
#
#   OUT    where JSON, spreadsheets, plots and what was printed go (results/gpu)
#   PART   all unless some are named; each is below ten minutes on an H100:
#          llavanext-sdpa llavanext-flash llava-sdpa llava-flash qwen-sdpa qwen-flash selection inside waits sweep
#
# PYTHON names the interpreter (python). A part that fails is named at the end, and the others run all the same. Exit status 0, or
# 1 where one did. A method that cannot reach a budget (fastv and seqprune at 160 of 2,880 tokens) is a line, and no failure.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=${1:-results/gpu}
shift $(($# > 0))
parts=("$@")
models=(llavanext-sdpa llavanext-flash llava-sdpa llava-flash qwen-sdpa qwen-flash)
((${#parts[@]})) || parts=("${models[@]}" selection inside waits sweep)
schedules=(llava_seqprune_r50k2 llava_seqprune_r75k2 llava_seqprune_r90k2) # as released
llava=(--hidden 4096 --heads 32 --layers 32)
failed=()
mkdir -p "$out"

# What is printed is kept beside the files.
run() {
    echo "== $part: $*"
    timeout 600 "$python" "$@" 2>&1 | tee "$out/$part.txt"
}

# A model with random weights: its budgets, unpruned and ideal too, alone and saturated.
bench() {
    local attn=$1 model=$2
    shift 2
    if [[ $attn == flash_attention_2 ]] && ! "$python" -c "import flash_attn" 2> /dev/null; then
        echo "== $part: left out, there is no flash-attn"
        return 0
    fi
    run run.py bench --random-weights "$model" --method script cdpruner fastv seqprune --budget "$@" \
        --batch-size 1 16 --device cuda --dtype bfloat16 --attn "$attn" --repeats 7 --new-tokens 16 --quiet -o "$out/$part"
}

for part in "${parts[@]}"; do
    case $part in
        llavanext-sdpa) bench sdpa llavanext 640 320 160 ;;
        llavanext-flash) bench flash_attention_2 llavanext 640 320 160 ;;
        llava-sdpa) bench sdpa llava 192 128 64 --model "${schedules[@]}" ;;
        llava-flash) bench flash_attention_2 llava 192 128 64 --model "${schedules[@]}" ;;
        qwen-sdpa) bench sdpa qwen25vl7b 50pct 25pct 10pct ;;
        qwen-flash) bench flash_attention_2 qwen25vl7b 50pct 25pct 10pct ;;
        selection) run benchmarks/selection.py --device cuda --out "$out" ;;
        inside) run benchmarks/inside.py --device cuda --dtype bfloat16 "${llava[@]}" --json "$out/inside.json" ;;
        waits) run benchmarks/waits.py --device cuda --trace "$out/waits.json" ;;
        sweep) run benchmarks/sweep.py --scale llava7b --device cuda --host-share 0.1 --json "$out/sweep.json" ;;
        *)
            echo "no part '$part': see the head of $0" >&2
            exit 2
            ;;
    esac || failed+=("$part")
done
((${#failed[@]})) || exit 0
echo "Not all was measured: ${failed[*]}" >&2
exit 1
