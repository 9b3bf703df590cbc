"""How MAE and AIM initialise: xavier-uniform, the patch convolution as the matrix that it is."""

xavier = [
    dict(type="mmengine.Xavier", layer="Linear", distribution="uniform"),
    dict(type="xtra_toolkit.XavierPatch"),
    dict(type="mmengine.Constant", layer="LayerNorm", val=1.0, bias=0.0),
]
