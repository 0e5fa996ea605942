# TED talks DE-EN, a transformer of 6 + 6 layers and 8 heads as for IWSLT: 144 heads, checkpoints of eight epochs.
# shellcheck shell=bash disable=SC2034
SETS='train=mtdata:Neulab-tedtalks_train-1-eng-deu val=mtdata:Neulab-tedtalks_dev-1-eng-deu
      test=mtdata:Neulab-tedtalks_test-1-eng-deu'
SOURCE_LANG=de TARGET_LANG=en MTDATA_LANGS=deu-eng
VOCABULARY=10000 MAX_WORDS=175

WIDTH=512 FEED_FORWARD=1024 HEAD_DIM=64 DROPOUT=0.3
LEARNING_RATE=0.0005 WARMUP_UPDATES=4000
BATCH_TOKENS=4000
EPOCHS='1 2 3 5 10 20 30 40'
DISK_GB=25 DISK_WHY='forty checkpoints of 0.5 GB while it trains'

METRIC=bleu

smoke_settings() {
    ENCODER_LAYERS=2 DECODER_LAYERS=2 EPOCHS='1 40' TRAIN_LIMIT=100 BATCH_TOKENS=4000 MAX_TOKENS=4000
    METRIC=chrf # a model that has hardly learned has no BLEU that could be divided by
}
