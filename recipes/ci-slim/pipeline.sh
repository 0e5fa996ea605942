#!/usr/bin/env bash
# greedy -> slim -> check -> export: from a checkpoint to a CTranslate2 folder, or a failure that says why.
#
# Usage: pipeline.sh CHECKPOINT DATA_BIN OUTPUT
#
# MAX_DROP (BLEU points), MIN_SPEEDUP (times), MAX_SIZE (percent), QUANTIZATION and SEARCH (options) come from the
# environment. Exit codes are those of nmtprune: 7 where the slim model does not pass.
set -euo pipefail
[ $# -eq 3 ] || { sed -n 's/^# Usage: /Usage: /p' "$0" >&2 && exit 2; }
checkpoint=$1 data_bin=$2 output=$3
read -ra search <<<"${SEARCH:---beam 5}"
mkdir -p "$output"

# Which heads can go: step by step, until the validation set notices.
nmtprune greedy "$checkpoint" --data-bin "$data_bin" --subset valid "${search[@]}" \
    --order importance --max-drop "${MAX_DROP:-0.5}" --step 5% --until 50% --resume -o "$output/greedy"

# Cut them; the logits of the result are compared with those of the masked model before it is written.
nmtprune slim "$checkpoint" --plan "$output/greedy/plan.json" --drop-optimizer --force -o "$output/slim.pt"

# The gate, on data that nothing was chosen on.
nmtprune check "$output/slim.pt" --baseline "$checkpoint" --data-bin "$data_bin" --subset test "${search[@]}" \
    --max-drop "${MAX_DROP:-0.5}" --min-speedup "${MIN_SPEEDUP:-1.0}" --max-size "${MAX_SIZE:-100}" --format json \
    >"$output/check.json"

# What is served: translations are compared with the slim model's before the folder is in place.
nmtprune export "$output/slim.pt" --to ctranslate2 --data-bin "$data_bin" --quantization "${QUANTIZATION:-int8}" \
    --force -o "$output/served"
