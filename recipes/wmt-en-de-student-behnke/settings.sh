# WMT19 EN-DE, a student of 6 encoder and 2 decoder layers, d 256: 48 encoder heads, taught by a transformer-big.
# shellcheck shell=bash disable=SC2034
SETS='train=mtdata:Statmt-europarl-9-deu-eng,Statmt-commoncrawl_wmt13-1-deu-eng,Statmt-news_commentary-14-deu-eng
      val=sacrebleu:wmt15
      newstest2016=sacrebleu:wmt16 newstest2017=sacrebleu:wmt17 newstest2018=sacrebleu:wmt18 newstest2019=sacrebleu:wmt19'
SOURCE_LANG=en TARGET_LANG=de MTDATA_LANGS=eng-deu
TOOLS=pymarian

# The teacher.
TEACHER_LAYERS=6 TEACHER_WIDTH=1024 TEACHER_HEADS=16 TEACHER_FEED_FORWARD=4096 TEACHER_RATE=0.0004
TEACHER_UPDATES=200000 TEACHER_BEAM=4
# The student: no dropout and no label smoothing, since it shall follow its teacher as closely as it can.
DECODER_LAYERS=2 HEAD_DIM=32 WIDTH=256 FEED_FORWARD=1536
DROPOUT=0 LABEL_SMOOTHING=0
LEARNING_RATE=0.0003 WARMUP_UPDATES=16000
BASE_UPDATES=475000
BEAM=1 BENCH_OPTIONS='--batch-size 32 --threads 1 --device cpu --repeat 5'

PRETRAIN=25000 PRUNE=15000 PATIENCE=20
HEADS_PER_ITERATION=3 UNTIL=42
ITERATIONS='9 10 11 12 13 14'
PUSHY_HEADS=6 PUSHY_UNTIL=42 PUSHY_ITERATIONS='6 7'
FASTEST=12           # compared in table 7

# The Marian student: its decoder has tied SSRU layers, as in the paper.
MARIAN_UPDATES=475000 MARIAN_BATCH='--mini-batch-fit -w 8000 --maxi-batch 1000' MARIAN_REMOVED=50%
DISK_GB=80 DISK_WHY='a corpus of 8 GB as text, translations, pieces and binary, checkpoints of 2.5 GB'

smoke_settings() {
    SETS='train= val= newstest2018= newstest2019='
    TEACHER_LAYERS=2 TEACHER_WIDTH=32 TEACHER_HEADS=4 TEACHER_FEED_FORWARD=32 TEACHER_UPDATES=10 TEACHER_BEAM=1
    TEACHER_RATE=0.004
    PRETRAIN=4 PRUNE=4 PATIENCE=2 BASE_UPDATES=8 BENCH_OPTIONS='--batch-size 32 --repeat 2'
    HEADS_PER_ITERATION=24 UNTIL=24 ITERATIONS=1 PUSHY_HEADS=24 PUSHY_UNTIL=24 PUSHY_ITERATIONS=1 FASTEST=1
    ROW_OF_1=i12 PUSHY_ROW_OF_1=i6
    MARIAN_UPDATES=10 MARIAN_BATCH='--mini-batch 16 -w 300'
}
