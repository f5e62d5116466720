"""The operators that hold no weights, each with the kind of thing that it does.

A stored tensor that feeds one of them is kept. An operator that is in no table is not known, and is said to be so.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxinit.analysis.operators.table import MICROSOFT, ML, NHWC, Key

_POINTWISE = "pointwise"
_MOVES = "moves elements"
_REDUCES = "reduction"
_POOLS = "pooling and sampling"
_MAKES = "makes values"
_COMPARES = "comparison and logic"
_CONTROL = "control flow and sequences"
_TEXT = "text and images"
_SIGNAL = "signal processing"
_ATTENTION = "attention on projected heads"
_SEARCH = "search for sequences"
_LOSS = "losses and training"
_QUANTISES = "quantised arithmetic"
_FITTED = "fitted, with attributes alone"
_OPAQUE = "opaque to this program"
_STATE = "states of a recurrence"

_CLASSES: Mapping[tuple[str, str], str] = {
    ("", _POINTWISE): (
        "Abs Acos Acosh Asin Asinh Atan Atanh BitCast Cast CastLike Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu "
        "HardSigmoid HardSwish Hardmax Identity LeakyRelu Log LogSoftmax Mean Mish Mod Neg Pow Reciprocal Relu "
        "Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt SwiGLU Swish Tan Tanh ThresholdedRelu "
        "Affine ImageScaler ParametricSoftplus Scale ScaledTanh"
    ),
    ("", _MOVES): (
        "CenterCropPad Col2Im Compress Crop DepthToSpace DynamicSlice Expand Flatten MemcpyFromHost MemcpyToHost Pad "
        "Reshape ReverseSequence Scatter ScatterElements ScatterND Slice SpaceToDepth Split Squeeze TensorScatter Tile "
        "TopK Transpose Trilu Unique Unsqueeze"
    ),
    ("", _REDUCES): (
        "ArgMax ArgMin CumProd CumSum Det LpNormalization LRN MeanVarianceNormalization ReduceL1 ReduceL2 ReduceLogSum "
        "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
    ),
    ("", _POOLS): (
        "AffineGrid AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample LpPool MaxPool MaxRoiPool "
        "MaxUnpool NonMaxSuppression Resize RoiAlign Upsample EfficientNMS_TRT MultilevelCropAndResize_TRT "
        "PyramidROIAlign_TRT"
    ),
    ("", _MAKES): (
        "Bernoulli Constant ConstantFill ConstantOfShape EyeLike GivenTensorFill Multinomial NonZero OneHot "
        "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Shape Size"
    ),
    ("", _COMPARES): (
        "And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Equal Greater GreaterOrEqual IsInf IsNaN Less "
        "LessOrEqual Not Or Xor"
    ),
    ("", _CONTROL): (
        "ConcatFromSequence If Loop Optional OptionalGetElement OptionalHasElement Scan SequenceAt SequenceConstruct "
        "SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap SplitToSequence"
    ),
    ("", _TEXT): "ImageDecoder RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer",
    ("", _SIGNAL): "BlackmanWindow DFT HammingWindow HannWindow MelWeightMatrix STFT",
    ("", _ATTENTION): "DisentangledAttention_TRT LinearAttention RotaryEmbedding",
    ("", _STATE): "GRUUnit",
    ("", _LOSS): "Dropout NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    ("", _QUANTISES): "DequantizeLinear DynamicQuantizeLinear QuantizeLinear",
    ("ai.onnx.preview", _ATTENTION): "FlexAttention",
    ("ai.onnx.preview.training", _LOSS): "Adagrad Adam Gradient Momentum",
    (ML, _FITTED): ("SVMClassifier SVMRegressor TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor"),
    (ML, _TEXT): (
        "ArrayFeatureExtractor Binarizer CastMap CategoryMapper DictVectorizer FeatureVectorizer Imputer LabelEncoder "
        "Normalizer OneHotEncoder Scaler ZipMap"
    ),
    (MICROSOFT, _POINTWISE): (
        "BitmaskDropout ComplexMul ComplexMulConj Gelu HyperConnectionPostMix HyperConnectionPreMix QuickGelu "
        "ScaledSiLU SwiGLU"
    ),
    (MICROSOFT, _MOVES): ("ConvStateReplay ExpandDims Pad RemovePadding RestorePadding Trilu UnfoldTensor Unique"),
    (MICROSOFT, _REDUCES): "CDist Inverse IsAllFinite ReduceSumInteger DynamicTimeWarping",
    (MICROSOFT, _POOLS): "CropAndResize GridSample MaxpoolWithMask NhwcMaxPool",
    (MICROSOFT, _MAKES): "Range SampleOp MurmurHash3 NGramHashMapping VarlenNGramHashMapping",
    (MICROSOFT, _SIGNAL): "Irfft Rfft",
    (MICROSOFT, _TEXT): "Tokenizer",
    (MICROSOFT, _ATTENTION): (
        "GemmaRotaryEmbedding LinearAttention MRotaryEmbedding PackedSparseAttentionIndexerMerge RotaryEmbedding "
        "SparseAttention"
    ),
    (MICROSOFT, _STATE): "GatedDeltaNetStateReplay",
    (MICROSOFT, _SEARCH): (
        "BeamSearch BifurcationDetector GreedySearch NGramRepeatBlock Sampling SpeculativePrefixCommit "
        "WhisperBeamSearch"
    ),
    (MICROSOFT, _QUANTISES): (
        "DequantizeBFP DequantizeLinear DequantizeWithOrder GatherPacked MatMulFpQ4 MatMulPacked MoEPacked MulInteger "
        "QLinearAdd QLinearAveragePool QLinearConcat QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul "
        "QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QOrderedGelu QuantizeBFP QuantizeLinear "
        "QuantizeWithOrder"
    ),
    (MICROSOFT, _OPAQUE): "EPContext Snpe",
    ("com.microsoft.nchwc", _POOLS): "AveragePool GlobalAveragePool GlobalMaxPool MaxPool Upsample",
    ("com.microsoft.nchwc", _MOVES): "ReorderInput ReorderOutput",
    ("com.microsoft.nchwc", _OPAQUE): "Conv",
    (NHWC, _POOLS): (
        "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample LpPool MaxPool MaxUnpool "
        "QLinearAveragePool Resize"
    ),
    (NHWC, _MOVES): "DepthToSpace SpaceToDepth",
    (NHWC, _REDUCES): "LRN",
}

NO_WEIGHTS: Mapping[Key, str] = {(domain, op): kind for (domain, kind), ops in _CLASSES.items() for op in ops.split()}
