# MultiNLI, RoBERTa base fine-tuned: 12 layers of 12 heads.
# shellcheck shell=bash disable=SC2034
TASKS=MNLI
PRETRAINED_FILES='MNLI.zip roberta.base.tar.gz encoder.json vocab.bpe'
ENCODER_LAYERS=12 HEADS=12
CALIBRATION=5000 # training sentences on which the best head of a layer is chosen, and importance is measured
METRIC=accuracy
EPOCHS=3
BATCH_SENTENCES=32
SAVE_UPDATES=4000
PRUNED=50        # percent of the model whose speed is measured
BENCH_OPTIONS='--batch-size 1,4,16,64 --repeat 6'
DISK_GB=10 DISK_WHY='the pre-trained model, and a fine-tuned one with the state of its optimizer'

smoke_settings() {
    # Answers of a model that has learned nothing do not change with its heads, and have no correlation: losses do.
    METRIC=loss
    SMOKE_VAL=70 CALIBRATION=60 BENCH_OPTIONS='--batch-size 1,4,16,64 --repeat 2'
    ENCODER_LAYERS=3 HEADS=4 WIDTH=32 VOCABULARY=400 BATCH_SENTENCES=8
}
