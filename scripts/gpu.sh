#!/usr/bin/env bash
# What a machine with one large GPU runs in twelve minutes, what is of most worth first. From the top of a checkout:
#
#     scripts/gpu.sh [FOLDER]                        results into FOLDER; default: $OUT, else gpu-out
#     DEV=cpu LIMIT=300 scripts/gpu.sh [FOLDER]      the same on the processor, cut small
#
#     tests         tests/device on the card: every task and method runs there, and computes the host's numbers
#     throughput    images a second of each network's training step, and its share of what the card can do
#     ou32          vjko on ou, d = 32: 15 seeds in one batch
#     sngan         SN-GAN on CIFAR-10 for the rest of the time; the next call goes on from its checkpoint
#
# Each part has its own time, and none stops another. CIFAR-10 is looked for in $GWFBENCH_DATA, and in .data: as it is
# distributed, then its JPEG copies; where there is neither, SN-GAN learns pictures made here, to be timed.
#
# FOLDER then has throughput.csv; rows.csv and environments.json, which has the card's name, of all runs so far; PNGs of
# their laws; and log.txt, all that was said. Runs and checkpoints stay in $RUNS, where the next call finds them: a
# checkpoint has some hundred megabytes, and serves cards of one name and one version of torch.
#
# A machine without network brings missing packages (POT, torch-fidelity) as wheels in .whl. Exit code: 0, or 1 if a part
# failed. SN-GAN that is not at its end when its time is has not failed.
set -u
DEV=${DEV:-cuda}          # or cpu
LIMIT=${LIMIT:-720}       # seconds in all
PARTS=${PARTS:-tests throughput ou32 sngan}
RUNS=${RUNS:-build/gpu/runs}  # of all calls
NETWORK=${NETWORK:-sngan}     # of SN-GAN
OUT=${1:-${OUT:-gpu-out}}
HOMEWARD=20               # seconds for what comes after the parts

cd "$(dirname "$0")/.." || exit 1
mkdir -p "$OUT" "$RUNS" || exit 1
SECONDS=0                 # bash counts them
failed=0
log=$OUT/log.txt
: >"$log"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
[ -x .venv/bin/python ] && python=$PWD/.venv/bin/python || python=python3
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD:$made/site${PYTHONPATH:+:$PYTHONPATH}

case $DEV in
cuda)
  TESTS=${TESTS:---device cuda -n 4}
  SPEED=${SPEED:---also precision=bf16}
  OU=${OU:---task ou:dim=32 --method vjko}
  # the published setting, but for bf16, which is not the paper's precision: say so next to its FID
  GAN=${GAN:-gan:loss=sngan,network=$NETWORK,batch=64,fakes=128,iterations=50000,every=500,decay=linear,lr_end=0,precision=bf16}
  ;;
cpu)
  TESTS=${TESTS:--k test_card} # on the pretended device
  SPEED=${SPEED:---batch 2}
  OU=${OU:---task ou:dim=32,horizon=0.1 --method vjko:iterations=2,critic_steps=1,batch=64,pool=640}
  GAN=${GAN:-gan:loss=sngan,network=$NETWORK,width=8,batch=8,iterations=400,every=4}
  ;;
*)
  echo "DEV=$DEV; expected cuda or cpu" >&2
  exit 2
  ;;
esac

say() { echo "$@" | tee -a "$log"; }

# part NAME SHARE WORDS: runs them for at most SHARE percent of LIMIT, standard output to FOLDER/NAME.out
part() {
  local name=$1 most=$((LIMIT * $2 / 100)) began=$SECONDS left=$((LIMIT - HOMEWARD - SECONDS)) code
  shift 2
  most=$((most < left ? most : left))
  case " $PARTS " in *" $name "*) ;; *) return ;; esac
  [ "$most" -gt 0 ] || { say "$name: no time left"; return; }
  timeout --signal=INT --kill-after=20 "$most" "$@" >"$made/$name.out" 2>"$made/$name.err"
  code=$?
  { echo "=== $name: $*"; tail -c 1000000 "$made/$name.out"; tail -c 1000000 "$made/$name.err"; } >>"$log"
  if [ $code -ne 0 ] && ! { [ "$name" = sngan ] && goes_on; }; then
    failed=1
    say "$name: FAILED, exit code $code after $((SECONDS - began)) of $most s"
    grep -hE '^E  |FAILED|[Ee]rror|expected|fix:' "$made/$name.out" "$made/$name.err" | sort | uniq -c | sort -rn | head -n 12
  else
    say "$name: exit code $code after $((SECONDS - began)) of $most s"
  fi
}

# whether all that ended a run is its time, and it can go on
goes_on() {
  grep -q FAILED "$made/sngan.err" && ! grep FAILED "$made/sngan.err" | grep -qv 'timeout: it took longer than --timeout' &&
    [ -n "$(find "$RUNS" -name checkpoint.pt)" ]
}

run() { "$python" -m gwfbench run --device "$DEV" --out "$RUNS" --no-controls --format csv "$@"; }
export -f run
export python DEV RUNS

# -- what the machine is, and what it lacks
if ls .whl/*.whl >/dev/null 2>&1; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$made/site" .whl/*.whl >>"$log" 2>&1 ||
    { failed=1; say "wheels: FAILED"; tail -n 5 "$log"; }
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
if ! "$python" -c 'import importlib.metadata as m; m.version("gwfbench")' 2>/dev/null; then # a checkout that is not installed
  mkdir -p "$made/site/gwfbench-$version.dist-info"
  printf 'Metadata-Version: 2.1\nName: gwfbench\nVersion: %s\n' "$version" >"$made/site/gwfbench-$version.dist-info/METADATA"
fi
{ nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv 2>&1; "$python" -m gwfbench --version; } >>"$log" 2>&1

# -- CIFAR-10, or pictures of its size
[ -d .data ] && export GWFBENCH_DATA=${GWFBENCH_DATA:-$PWD/.data}
task=
for data in cifar10 cifar10_jpeg; do
  [ -n "$task" ] || "$python" -c 'import sys; from gwfbench.plugins import registry; registry.parse("task", sys.argv[1]).data_files()' \
    "images:data=$data" 2>/dev/null && task=${task:-images:data=$data}
done
if [ -z "$task" ]; then
  pictures=$(dirname "$RUNS")/pictures
  task=images:data=folder,data_root=$pictures
  [ -d "$pictures" ] || "$python" - "$pictures" <<'END' || failed=1
import sys
from pathlib import Path
import numpy as np
from PIL import Image
folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
folder.mkdir()
y, x = np.mgrid[:32, :32] / 32
for i in range(1000):  # three waves, one of each colour
    a, b, c = rng.uniform(1, 4, (3, 3))
    waves = np.sin(2 * np.pi * (a[:, None, None] * x + b[:, None, None] * y) + c[:, None, None])
    Image.fromarray(np.uint8(127.5 * (waves.transpose(1, 2, 0) + 1))).save(folder / f"{i:04}.png")
END
fi
say "$task, $GAN, device $DEV, $LIMIT s"

# -- the parts; words of TESTS, SPEED and OU are several
# shellcheck disable=SC2086
part tests 25 "$python" -m pytest tests/device -q -p no:cacheprovider -W default -m "not slow" $TESTS
part throughput 17 "$python" -m benchmarks.throughput --device "$DEV" --seconds $((LIMIT * 12 / 100)) $SPEED
[ -s "$made/throughput.out" ] && cp "$made/throughput.out" "$OUT/throughput.csv"
part ou32 17 bash -c 'run "$@"' run $OU --seeds 15
left=$((LIMIT - HOMEWARD - 20 - SECONDS)) # a run has 10 s to end in
part sngan 100 bash -c 'run "$@"' run --task "$task" --method "$GAN" --seeds 1 --timeout "$((left > 1 ? left : 1))" --retry timeout

# -- home
bring() { "$@" >"$made/bring" 2>&1 || { failed=1; say "FAILED: $*"; tail -n 4 "$made/bring"; }; cat "$made/bring" >>"$log"; }
bring "$python" -m gwfbench report --out "$RUNS" --write "$made/rows"
bring cp "$made/rows/rows.csv" "$made/rows/environments.json" "$OUT"
bring "$python" -m gwfbench report pictures --out "$RUNS" "$OUT"
say "all: $SECONDS s, exit code $failed"
exit $failed
