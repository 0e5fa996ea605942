# RoBERTa and the tasks of GLUE: data, fine-tuning, accuracy. Models: models/pretrained.pt, models/TASK-NAME.pt.
# shellcheck shell=bash

declare -A LABELS_OF=([MNLI]=3 [QQP]=2 [QNLI]=2 [SST-2]=2)
declare -A RATE_OF=([MNLI]=1e-5 [QQP]=1e-5 [QNLI]=1e-5 [SST-2]=1e-5)
GLUE_ADDRESS=https://dl.fbaipublicfiles.com/glue/data
FAIRSEQ_ADDRESS=https://dl.fbaipublicfiles.com/fairseq

# prepare_glue [OPTION...]: models/pretrained.pt and data-bin/TASK for all TASKS; options are those of glue.py.
prepare_glue() {
    step corpus get_glue
    step pieces split_glue "$@"
    step binarize binarize_glue
    step pretrained get_pretrained
}

get_glue() {
    rm -rf "$WORK/raw"
    mkdir "$WORK/raw"
    if [ -n "$SMOKE" ]; then
        run python -m nmtprune.demo.corpus "$WORK/raw/made" --train "$SMOKE_TRAIN" --val "$SMOKE_VAL" --test "$SMOKE_TEST"
        run python "$LIB/made_glue.py" "$WORK/raw/made" "$WORK/raw" --vocabulary "$VOCABULARY"
        return
    fi
    local file
    for file in $PRETRAINED_FILES; do
        if [ -n "$DATA" ]; then take "$file" "$WORK/raw"; else download "$(address_of "$file")" "$WORK/raw" "$PRETRAINED_FILES"; fi
    done
}

address_of() {
    case $1 in
        *.zip) printf '%s/%s' "$GLUE_ADDRESS" "$1" ;;
        *.tar.gz) printf '%s/models/%s' "$FAIRSEQ_ADDRESS" "$1" ;;
        *) printf '%s/gpt2_bpe/%s' "$FAIRSEQ_ADDRESS" "$1" ;;
    esac
}

split_glue() {
    rm -rf "$WORK/pieces"
    # shellcheck disable=SC2086 # tasks are words
    run python "$LIB/glue.py" "$WORK/raw" "$WORK/pieces" $TASKS --encoder "$WORK/raw/encoder.json" \
        --merges "$WORK/raw/vocab.bpe" --limit "$TRAIN_LIMIT" --seed "$SEED" "$@"
}

# binarize_glue: the dictionary is that of the pre-trained model; a smoke makes one.
binarize_glue() {
    local task first=${TASKS%% *}
    rm -rf "$WORK/data-bin" "$WORK/dict.txt"
    mkdir "$WORK/data-bin"
    if [ -n "$SMOKE" ]; then
        run fairseq-preprocess --only-source --trainpref "$WORK/pieces/$first/train.input0" --dict-only \
            --destdir "$WORK/data-bin/words"
        mv "$WORK/data-bin/words/dict.txt" "$WORK/dict.txt"
        rm -r "$WORK/data-bin/words"
    else
        tar -xzOf "$WORK/raw/roberta.base.tar.gz" roberta.base/dict.txt >"$WORK/dict.txt"
    fi
    for task in $TASKS; do binarize_task "$task"; done
}

binarize_task() {
    local pieces=$WORK/pieces/$1 part tests subset options
    for part in input0 input1 label; do
        [ -e "$pieces/train.$part" ] || continue
        tests=$(for subset in test test1; do [ ! -e "$pieces/$subset.$part" ] || echo "$pieces/$subset.$part"; done | paste -sd ,)
        options=(--only-source --trainpref "$pieces/train.$part" --validpref "$pieces/valid.$part"
            --destdir "$WORK/data-bin/$1/$part" --workers "$(nproc)")
        [ -z "$tests" ] || options+=(--testpref "$tests")
        [ "$part" = label ] || options+=(--srcdict "$WORK/dict.txt")
        run fairseq-preprocess "${options[@]}"
    done
}

# get_pretrained: RoBERTa base; a smoke trains a tiny model of as many layers and heads on masked words.
get_pretrained() {
    if [ -n "$SMOKE" ]; then
        local folder=$WORK/trainings/pretrained
        rm -rf "$folder"
        run fairseq-train "$WORK/data-bin/${TASKS%% *}/input0" --task masked_lm --criterion masked_lm --arch roberta_base \
            --encoder-layers "$ENCODER_LAYERS" --encoder-attention-heads "$HEADS" --encoder-embed-dim "$WIDTH" \
            --encoder-ffn-embed-dim "$FEED_FORWARD" --tokens-per-sample 64 --max-positions 512 --batch-size 8 \
            --optimizer adam --lr "$LEARNING_RATE" --max-update "$BASE_UPDATES" --no-epoch-checkpoints --seed "$SEED" \
            --log-format simple --save-dir "$folder" --cpu
        mv "$folder/checkpoint_last.pt" "$WORK/models/pretrained.pt"
        rm -r "$folder"
    else
        tar -xzOf "$WORK/raw/roberta.base.tar.gz" roberta.base/model.pt >"$WORK/models/pretrained.pt.part"
        mv "$WORK/models/pretrained.pt.part" "$WORK/models/pretrained.pt"
    fi
}

# fine_tune_on TASK NAME CHECKPOINT EPOCHS [SEED]: models/TASK-NAME.pt, the checkpoint of the best accuracy on valid.
fine_tune_on() {
    local task=$1 name=$2 checkpoint=$3 epochs=$4 seed=${5:-$SEED}
    step "fine-tune-$task-$name" do_fine_tune_on "$task" "$task-$name" "$checkpoint" "$epochs" "$seed"
}

do_fine_tune_on() {
    local task=$1 name=$2 checkpoint=$3 epochs=$4 updates
    updates=$(($(wc -l <"$WORK/pieces/$task/train.label") * epochs / BATCH_SENTENCES))
    [ -z "$SMOKE" ] || updates=$FINE_TUNE_UPDATES
    TASK=$task DATA_BIN=$WORK/data-bin/$task SEED=$5 do_train "$name" "$updates" --arch nmtprune_roberta \
        --finetune-from-model "$checkpoint" --lr "${RATE_OF[$task]}" --lr-scheduler polynomial_decay \
        --total-num-update "$updates" --warmup-updates $((updates * 6 / 100)) --weight-decay 0.1 --adam-eps 1e-06 \
        --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric
}

# task_options TASK: as fairseq reads the data of a task.
task_options() {
    printf '%s ' --task sentence_prediction --criterion sentence_prediction --num-classes "${LABELS_OF[$1]}" \
        --init-token 0 --separator-token 2 --shorten-method truncate --max-positions 512
}

# The next two take the place of those of train.sh.
loss_options() { task_options "$TASK"; }

# machine_options: BATCH_SENTENCES per update, however many GPUs share them.
machine_options() {
    printf '%s ' --batch-size $((BATCH_SENTENCES / (GPUS > 1 ? GPUS : 1))) --required-batch-size-multiple 1 \
        --dropout "$DROPOUT" --attention-dropout "$DROPOUT"
    if [ "$GPUS" -eq 0 ]; then printf '%s ' --cpu; elif [ "$FP16" = yes ]; then printf '%s ' --fp16; fi
}

# accuracy_of TASK ROW CHECKPOINT [SAMPLE]: accuracy on valid in percent, by fairseq itself; the column is the task.
accuracy_of() { step "evaluate-$1-$2${4:+-$4}" do_accuracy_of "$1" "$2" "$3" "${4:-1}"; }

do_accuracy_of() {
    local task=$1 row=$2 checkpoint=$3 sample=$4 log
    log=$WORK/results/$(basename "$checkpoint" .pt).validate.txt
    # shellcheck disable=SC2046 # options are words
    run fairseq-validate "$WORK/data-bin/$task" --path "$checkpoint" --user-dir "$(nmtprune user-dir)" \
        $(task_options "$task") --valid-subset valid --batch-size 64 --log-format json $([ "$GPUS" -gt 0 ] || echo --cpu) \
        >"$log" 2>&1 || { cat "$log" && return 1; }
    record "$row" "$task" "$(sed -n 's/.*"valid_accuracy": "\{0,1\}\([0-9.]*\).*/\1/p' "$log" | tail -n 1)" '' '' "$sample"
}
