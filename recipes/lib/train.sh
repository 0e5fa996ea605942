# Trainings by fairseq-train: models/NAME.pt is the checkpoint of the lowest validation loss.
# shellcheck shell=bash

# train_model NAME [OPTION...]: from scratch, of the recipe's shape.
train_model() {
    local name=$1
    shift
    step "train-$name" do_train "$name" "$BASE_UPDATES" $(shape_options) $(schedule "$LEARNING_RATE" "$WARMUP_UPDATES") "$@"
}

# train_shape NAME CHECKPOINT UPDATES [OPTION...]: as train_model, of the shape and with the weights that slim --reinit drew.
train_shape() {
    local name=$1 checkpoint=$2 updates=$3
    shift 3
    step "train-$name" do_train "$name" "$updates" --arch nmtprune --finetune-from-model "$checkpoint" \
        $(schedule "$LEARNING_RATE" "$WARMUP_UPDATES") "$@"
}

# fine_tune NAME CHECKPOINT [OPTION...]: train a checkpoint on for FINE_TUNE_UPDATES.
fine_tune() {
    local name=$1 checkpoint=$2
    shift 2
    step "fine-tune-$name" do_train "$name" "$FINE_TUNE_UPDATES" --arch nmtprune --finetune-from-model "$checkpoint" \
        $(fine_tune_schedule) "$@"
}

do_train() {
    local name=$1 updates=$2 folder=$WORK/trainings/$1
    shift 2
    # The model is put in its place when it is trained, in one move: a step that was stopped after that has nothing left to do.
    [ ! -e "$WORK/models/$name.pt" ] || { rm -rf "$folder" && return 0; }
    mkdir -p "$folder"
    # fairseq-train goes on by itself where the folder has a last checkpoint.
    run $(trainer) "$DATA_BIN" --user-dir "$(nmtprune user-dir)" --save-dir "$folder" \
        --max-update "$updates" --seed "$SEED" --no-epoch-checkpoints \
        --save-interval-updates "$SAVE_UPDATES" --keep-interval-updates 1 \
        --log-format simple --log-interval 100 $(loss_options) "${OPTIMIZER[@]}" $(machine_options) "$@"
    mv "$folder/checkpoint_best.pt" "$WORK/models/$name.pt"
    rm -r "$folder"
}

# shape_options: nmtprune's architecture takes heads of any width; its other settings are those of fairseq's transformer.
shape_options() {
    local side
    printf '%s ' --arch nmtprune $MODEL_OPTIONS --dropout "$DROPOUT" \
        --encoder-layers "$ENCODER_LAYERS" --decoder-layers "$DECODER_LAYERS"
    for side in encoder decoder; do
        printf '%s ' --$side-embed-dim "$WIDTH" --$side-ffn-embed-dim "$FEED_FORWARD" \
            --$side-attention-heads "$HEADS" --$side-head-dim "$HEAD_DIM"
    done
}

# schedule RATE WARMUP: inverse square root, as in Vaswani et al.
schedule() { printf '%s ' --lr "$1" --lr-scheduler inverse_sqrt --warmup-updates "$2"; }

# fine_tune_schedule: straight down to zero, the same for every method that trains on from the common base.
fine_tune_schedule() {
    printf '%s ' --lr "$FINE_TUNE_RATE" --lr-scheduler polynomial_decay --total-num-update "$FINE_TUNE_UPDATES" \
        --warmup-updates $((FINE_TUNE_UPDATES / 20))
}

loss_options() { printf '%s ' --criterion label_smoothed_cross_entropy --label-smoothing "$LABEL_SMOOTHING"; }

# machine_options: one batch of BATCH_TOKENS per update, however many GPUs share it.
machine_options() {
    local at_once=$((MAX_TOKENS * (GPUS > 1 ? GPUS : 1)))
    printf '%s ' --max-tokens "$MAX_TOKENS" --update-freq $(((BATCH_TOKENS + at_once - 1) / at_once))
    if [ "$GPUS" -eq 0 ]; then printf '%s ' --cpu; elif [ "$FP16" = yes ]; then printf '%s ' --fp16; fi
}

# trainer: fairseq-train starts a process per GPU itself; under torchrun and Slurm it joins those that are there.
trainer() {
    if [ -n "$TORCHRUN" ]; then
        printf '%s ' torchrun --standalone --nproc_per_node "$((GPUS > 0 ? GPUS : 1))" "$(command -v fairseq-train)"
    else
        printf 'fairseq-train '
    fi
}
