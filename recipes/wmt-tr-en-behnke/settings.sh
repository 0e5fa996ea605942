# WMT18 TR-EN, transformer-big with 8 heads of 64 per module: d 1024, inner width of attention 512, 144 heads.
# shellcheck shell=bash disable=SC2034
SETS='train=mtdata:OPUS-setimes-v2-eng-tur val=mtdata:Statmt-newsdev_tren-2016-tur-eng
      newstest2016=sacrebleu:wmt16 newstest2017=sacrebleu:wmt17 newstest2018=sacrebleu:wmt18'
SOURCE_LANG=tr TARGET_LANG=en MTDATA_LANGS=tur-eng
VOCABULARY=36000

HEADS=8 HEAD_DIM=64 WIDTH=1024 FEED_FORWARD=4096
LEARNING_RATE=0.0002 WARMUP_UPDATES=8000
BATCH_TOKENS=16000 MAX_TOKENS=4000
BASE_UPDATES=200000  # no model converges later
BEAM=6 BENCH_OPTIONS='--batch-size 32 --repeat 5'

PRETRAIN=12000 PRUNE=8000 HEADS_PER_ITERATION=8 UNTIL=120
ITERATIONS='9 10 11 12 13 14 15' # converged one by one, table 3
PATIENCE=10
FASTEST=13           # compared in table 7
DISK_GB=60 DISK_WHY='checkpoints of 2.5 GB with optimizer state, ten models of 0.8 GB'

smoke_settings() {
    PRETRAIN=4 PRUNE=4 HEADS_PER_ITERATION=60 UNTIL=60 ITERATIONS=1 PATIENCE=2 FASTEST=1 BASE_UPDATES=10
    # With one iteration, it stands for the one that the table names.
    ROW_OF_1=i13
}
