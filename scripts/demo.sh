# shellcheck shell=bash disable=SC2154
# What the demos share. Each sets model, needs, grid, study and work, then sources this:
#
#   1. the grid of Sequential Prune's release on its two benchmarks, DocVQA_VAL and OCRBench;
#   2. the methods of the study side by side, on those of ten image benchmarks whose data is at hand.
#
# One GPU: a call of run.py for each benchmark of 1 and one for 2. Several: the configurations are dealt out to one process per GPU
# (logs in WORK_DIR/logs), and a last run over all of them scores. Run it again to go on.
#
# Environment: PYTHON, WORK_DIR, CUDA_VISIBLE_DEVICES, LMUData (where the tables lie). Flags for run.py come after MODEL_FOLDER,
# or alone; what is run and where results go is set here. Exit status: the highest of run.py's (0 done, 1 some failed, 2 something
# must be changed first), 130 when stopped.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
study=$root/$study
work=${WORK_DIR:-$work}
python=${PYTHON:-$root/.venv/bin/python}
[[ -n ${PYTHON:-} || -x $python ]] || python=python3

customary="VQAv2 GQA VizWiz ScienceQA TextVQA POPE MME MMBench MMBench_CN MMVet" # the ten image sets of the papers

# gpus: what CUDA would see, in its words.
find_gpus() {
  local count entry visible
  count=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)
  visible=${CUDA_VISIBLE_DEVICES-$(seq -s, 0 $((count - 1)))}
  gpus=()
  ((count)) || return 0
  IFS=, read -r -a visible <<<"$visible"
  for entry in ${visible[@]+"${visible[@]}"}; do
    entry=${entry//[[:space:]]/}
    if [[ $entry == -* || ($entry =~ ^[0-9]+$ && 10#$entry -ge $count) ]]; then break; fi # CUDA stops there, too
    gpus+=("$entry")
  done
}

# found: those of the ten that can be run; says which cannot, and why.
find_data() {
  local table name reason
  table=$("$python" "$root/run.py" --list data)
  found=()
  while IFS=$'\t' read -r name reason; do
    if [[ -z $reason ]]; then found+=("$name"); else echo "Left out: $name ($reason)"; fi
  done < <(awk -v wanted="$customary" '
    function cell(head) { text = substr($0, at[head]); sub(/  .*/, "", text); return text }
    NR == 1 { for (i = split("JUDGE,STATE,TABLE,NOTE", heads, ","); i; i--) at[heads[i]] = index($0, heads[i]); next }
    { state = cell("STATE"); reason[$1] = state ": " cell("NOTE") }
    state == "missing" { reason[$1] = "there is no " cell("TABLE") " in the data folder" }
    state == "present" { reason[$1] = cell("JUDGE") == "needed" ? "it needs a judge model" : "" }
    END {
      for (i = split(wanted, names, " "); i; i--) if (!(names[i] in reason)) reason[names[i]] = "unknown to run.py"
      for (i = 1; i in names; i++) print names[i] "\t" reason[names[i]]
    }' <<<"$table")
}

# choose LABEL I N -> chosen: run.py's arguments for every N-th configuration from the I-th on. Empty where there is none.
choose() {
  local i
  chosen=()
  if [[ $1 != study ]]; then
    for ((i = $2; i < ${#grid[@]}; i += $3)); do chosen+=("${grid[i]}"); done
    if ((${#chosen[@]})); then chosen=(--model "${chosen[@]}"); fi
  elif (($3 == 1)); then
    chosen=(--config "$study")
  elif [[ -s $work/logs/study.$2.yaml ]]; then
    chosen=(--config "$work/logs/study.$2.yaml")
  fi
}

# deal N: the study as N of its own, because names on the command line would lose the parameters.
deal() {
  "$python" - "$root" "$study" "$1" "$work/logs" <<'PY'
import json
import sys
from pathlib import Path

root, path, n, folder = sys.argv[1:]
sys.path.insert(0, root)
from script_vlmeval.cells import read_study

study = read_study(Path(path))
for i in range(int(n)):
    configs = [{"name": str(c), "params": dict(c.params)} for c in study.configs[i :: int(n)]]
    share = json.dumps({"configs": configs, "options": study.options}) if configs else ""  # JSON is YAML
    Path(folder, f"study.{i}.yaml").write_text(share)
PY
}

# Writes the pictures of the benchmarks as files, once: VLMEvalKit does so when a row is first read, and processes that do it at
# the same time read each other's halves. Takes run.py's arguments.
unpack() {
  "$python" - "$root" "$@" <<'PY'
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from script_vlmeval.benchmarks import expand
from script_vlmeval.cli import parser
from script_vlmeval.errors import UserError
from script_vlmeval.plugin import open_dataset

args = parser().parse_args(sys.argv[2:])
try:
    for benchmark in expand(args.data):
        dataset = open_dataset(benchmark, args.limit and int(args.limit), Path(args.work_dir))
        for row in dataset.rows:
            with suppress(ValueError):  # a broken picture is for run.py to report
                dataset.message(row)
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
PY
}

# Says what the model folder cannot serve, before hours are spent. Takes run.py's arguments.
check() {
  "$python" "$root/run.py" "${flags[@]}" "$@" --dry-run >/dev/null
}

# part LABEL BENCHMARK...: answers and scores the grid, or the study where LABEL says so. Its status is run.py's.
part() {
  local label=$1 best=255 worst=0 code=0
  shift
  echo "== ${label%%_*} on $* =="
  choose "$label" 0 1
  local data=(--data "$@") all=("${chosen[@]}" --data "$@")
  if ((${#gpus[@]} > 1)); then
    unpack "${flags[@]}" "${all[@]}" || return
    spread "$label" || return
    ((best <= 1)) || return "$best" # nothing was answered
    if ((worst > 1)); then all+=(--mode eval); fi # not to do the work of a process that died here, on one GPU
    "$python" "$root/run.py" "${again[@]}" "${all[@]}" || code=$?
    return $((code > worst ? code : worst))
  fi
  "$python" "$root/run.py" "${flags[@]}" "${all[@]}"
}

# spread LABEL: part's answers, by one process per GPU. Sets its best and worst status.
spread() {
  local i log code pids=()
  mkdir -p -- "$work/logs" || return
  if [[ $1 == study ]]; then deal "${#gpus[@]}" || return; fi
  for i in "${!gpus[@]}"; do
    choose "$1" "$i" "${#gpus[@]}"
    ((${#chosen[@]})) || continue
    CUDA_VISIBLE_DEVICES=${gpus[i]} TQDM_MININTERVAL=10 \
      "$python" "$root/run.py" "${flags[@]}" "${chosen[@]}" "${data[@]}" --mode infer >"$work/logs/$1.$i.log" 2>&1 &
    pids[i]=$!
  done
  echo "Answering on ${#pids[@]} GPUs: tail -f $work/logs/$1.*.log"
  for i in "${!pids[@]}"; do
    code=0 log=$work/logs/$1.$i.log
    wait "${pids[i]}" || code=$?
    best=$((code < best ? code : best)) worst=$((code > worst ? code : worst))
    if ((code)); then
      echo "The process on GPU ${gpus[i]} failed with status $code. The end of $log:" >&2
      tr '\r' '\n' <"$log" | tail -n 5 | sed 's/^/  /' >&2
    fi
  done
}

note() { # a crash counts as 1: a rerun may mend it
  local code=$(($1 > 2 ? 1 : $1))
  status=$((code > status ? code : status))
}

stop() { # processes in the background do not get Ctrl-C
  local left
  mapfile -t left < <(jobs -pr)
  if ((${#left[@]})); then
    kill "${left[@]}" 2>/dev/null || true
    wait
    echo "Stopped. Answers so far are on disk: run the same command again to go on." >&2
  fi
  exit 130
}

find_gpus
if ((!${#gpus[@]})); then
  cat >&2 <<END
No GPU found (nvidia-smi -L, CUDA_VISIBLE_DEVICES). This demo takes
  $needs
  DocVQA_VAL.tsv and OCRBench.tsv, as VLMEvalKit publishes them, in the folder that LMUData names
Without a GPU: make demo
END
  exit 2
fi

flags=() again=() status=0 # again: without --fresh, or the run that scores would discard what it is to score
if (($#)) && [[ $1 != -* ]]; then
  flags=(--checkpoint "$model=$1")
  shift
fi
flags=("$@" ${flags[@]+"${flags[@]}"} --work-dir "$work") # the last of two flags counts: ours
for flag in "${flags[@]}"; do
  [[ $flag == --f* ]] || again+=("$flag")
done

trap stop INT TERM HUP
release=(DocVQA_VAL OCRBench)
check --model "${grid[@]}" --data "${release[@]}" || exit
if check --config "$study"; then
  find_data
else # its flaw need not be the grid's
  note $? && found=()
  echo "Left out: $study" >&2
fi
for name in "${release[@]}"; do part "grid_$name" "$name" || note $?; done # each by itself: one may be missing
if ((${#found[@]})); then part study "${found[@]}" || note $?; fi
exit "$status"
