# WMT14 EN-FR, the pretrained model of Ott et al. 2018: transformer-big, 6 + 6 layers of 16 heads, 288 heads.
# shellcheck shell=bash disable=SC2034
SETS='newstest2013=sacrebleu:wmt13 newstest2014=sacrebleu:wmt14/full mtnt=sacrebleu:mtnt1.1/test
      newstest2009=sacrebleu:wmt09 newstest2010=sacrebleu:wmt10 newstest2011=sacrebleu:wmt11 newstest2012=sacrebleu:wmt12'
SOURCE_LANG=en TARGET_LANG=fr
PRETRAINED=https://dl.fbaipublicfiles.com/fairseq/models/wmt14.en-fr.joined-dict.transformer.tar.bz2
PRETRAINED_FILES='model.pt dict.en.txt dict.fr.txt bpecodes'
TOOLS=subword-nmt
LENPEN=0.6
METRIC=bleu
DISK_GB=12 DISK_WHY='the model of 3 GB and its archive'

smoke_settings() {
    # Trained here, in the place of the pretrained model. Texts that do not differ have no correlation: chrF does.
    SETS="train= val= $SETS"
    METRIC=chrf BASE_UPDATES=120
    ENCODER_LAYERS=2 DECODER_LAYERS=2 HEADS=4 HEAD_DIM=8
}
