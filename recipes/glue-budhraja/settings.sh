# GLUE's four larger tasks, RoBERTa base: 12 layers of 12 heads.
# shellcheck shell=bash disable=SC2034
TASKS='MNLI QQP QNLI SST-2'
PRETRAINED_FILES='MNLI.zip QQP-clean.zip QNLIv2.zip SST-2.zip roberta.base.tar.gz encoder.json vocab.bpe'
ENCODER_LAYERS=12 HEADS=12
PERCENTS='10 20 30 40 50 60 70 80 90'
SEEDS='1 2 3'
# Whole layers, as nmtprune plan --empty-layers names them; layers count from 0.
PATTERNS='top:1 bottom:1 top:3 bottom:3 top:6 bottom:6 top:8 bottom:8 top:1,bottom:1 middle:2 top:2,bottom:2
          middle:4 top:3,bottom:3 middle:6 top:4,bottom:4 middle:8 even odd'
DRIFTS='random-10-1 random-50-1 random-90-1 top-3 bottom-3 even' # of figure 2, on the first task

EPOCHS=10
BATCH_SENTENCES=32
SAVE_UPDATES=4000
DISK_GB=320 DISK_WHY='184 fine-tuned models of 1.5 GB with the state of their optimizers'

smoke_settings() {
    TASKS=MNLI PERCENTS=50 SEEDS=1 PATTERNS='top:3 even' DRIFTS=top-3
    ENCODER_LAYERS=6 HEADS=4 WIDTH=32 VOCABULARY=400 BATCH_SENTENCES=8
}
