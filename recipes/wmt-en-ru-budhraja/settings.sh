# WMT14 EN-RU, 2.5 million pairs, Transformer base: 144 heads.
# shellcheck shell=bash disable=SC2034
SETS='train=mtdata:Statmt-commoncrawl_wmt13-1-rus-eng,Statmt-news_commentary_wmt18-13-rus-eng,Statmt-yandex-wmt22-eng-rus
      val=sacrebleu:wmt13 newstest2014=sacrebleu:wmt14/full'
SOURCE_LANG=en TARGET_LANG=ru MTDATA_LANGS=eng-rus
BATCH_TOKENS=32000
TRAIN_LIMIT=2500000

LEARNING_RATE=0.0007 WARMUP_UPDATES=16000 ADAM_BETAS='(0.9, 0.997)'
BASE_UPDATES=100000
FINE_TUNE_UPDATES=75000 FINE_TUNE_RATE=0.0002 # about 30 epochs
SEEDS='1 2 3'
PERCENTS='25 35 50 55 60 75 81 87'
# Row, encoder, cross and decoder heads per layer: those held to be important stay (a), or go (b).
LAYERS='25a:888444:444888:888444 25b:444888:888444:444888 40a:777322:233777:777332 40b:223777:777332:233777
        50a:666222:222666:666222 50b:222666:666222:222666 60a:555211:112555:555211 60b:112555:555211:112555
        75a:333111:111333:333111 75b:111333:333111:111333'
KINDS='14/30/31 31/30/14 30/14/31 12/25/21 21/25/12 25/12/21 8/15/13 13/15/8 15/8/13 5/12/9 9/12/5 12/5/9'
DISK_GB=100 DISK_WHY='a corpus of 2 GB as text, pieces and binary, 90 checkpoints of 1 GB'

smoke_settings() {
    SEEDS='1 2' PERCENTS=87
    LAYERS=40a:777322:233777:777332
    KINDS=14/30/31
}
