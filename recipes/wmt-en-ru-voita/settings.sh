# WMT EN-RU, 2.5 million pairs, Transformer base: 48 heads of each kind.
# shellcheck shell=bash disable=SC2034
SETS='train=mtdata:Statmt-commoncrawl_wmt13-1-rus-eng,Statmt-news_commentary_wmt18-13-rus-eng,Statmt-yandex-wmt22-eng-rus
      val=sacrebleu:wmt13 newstest2014=sacrebleu:wmt14/full'
SOURCE_LANG=en TARGET_LANG=ru MTDATA_LANGS=eng-rus
TRAIN_LIMIT=2500000

LEARNING_RATE=0.0007 WARMUP_UPDATES=16000
BATCH_TOKENS=16000
BASE_UPDATES=200000
FINE_TUNE_UPDATES=50000 FINE_TUNE_RATE=0.0002
L0_WEIGHT=0.01       # where the search for the weight begins that leaves as many heads as asked for
ENCODER_HEADS='10'   # encoder heads that stay, of 48
ALL_HEADS='75 58 36 26' # heads of all kinds that stay, of 144: 14/31/30, 12/21/25, 8/13/15, 5/9/12
DISK_GB=30 DISK_WHY='a corpus of 2 GB as text, pieces and binary, twelve checkpoints of 1 GB'

smoke_settings() { ALL_HEADS=75; }
