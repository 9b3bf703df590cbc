"""Initialise as MAE and AIM do: xavier-uniform, with the patch convolution as a linear layer."""

xavier = [
    dict(type="mmengine.Xavier", layer="Linear", distribution="uniform"),
    dict(type="xtra_toolkit.XavierPatch"),
    dict(type="mmengine.Constant", layer="LayerNorm", val=1.0, bias=0.0),
]
