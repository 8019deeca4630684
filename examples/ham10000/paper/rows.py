"""The rows of the paper's tables, with its figures.

Shi X, Fang R, Luo M, Liu T-K. Skin Tumor Classification Based on Improved MobileNetV3-Small (in
Chinese). Computer Systems & Applications 32(12), 2023, 120-128.
"""

from dataclasses import dataclass

BACKBONE = "MobileNetV3-Small"
"""The network that the paper changes, and that ``--model`` puts another one in the place of."""


@dataclass(frozen=True)
class Row:
    """A network of a table: what the paper says of it, and its options.

    Accuracy and "BACC", most likely the mean recall of the classes, are in percent, parameters in
    millions.
    """

    name: str
    accuracy: float
    bacc: float
    parameters: float
    model: str = BACKBONE
    attention: str = "SE"
    loss: str = "cross-entropy"
    pretrained: bool = True


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper, its kind, with what it compares as its title."""

    kind: str
    number: int
    title: str
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        """Such as ``Table 5``."""
        return f"{self.kind.capitalize()} {self.number}"


_PRETRAINING = (
    Row("ResNet18, without", 89.88, 80.67, 11.18, "ResNet18", "none", pretrained=False),
    Row("ResNet18, with", 91.48, 84.23, 11.18, "ResNet18", "none"),
    Row("MobileNetV3, without", 87.17, 73.71, 2.18, pretrained=False),
    Row("MobileNetV3, with", 90.88, 83.44, 2.18),
)
_BACKBONES = (
    Row("ResNet18", 91.48, 84.23, 11.18, "ResNet18", "none"),
    Row("ShuffleNetV2", 91.38, 84.25, 5.36, "ShuffleNetV2", "none"),
    Row("GhostNetV2", 88.88, 78.63, 6.16, "GhostNetV2"),
    Row("EfficientNetB0", 91.29, 83.42, 5.29, "EfficientNetB0"),
    Row("MobileNetV3", 90.88, 83.44, 2.18),
)
_LOSSES = (
    Row("MobileNetV3, cross entropy", 90.88, 83.44, 2.18),
    Row("CaCo, cross entropy", 91.78, 85.70, 2.29, attention="CaCo"),
    Row("CaCo, focal loss", 91.98, 85.74, 2.29, attention="CaCo", loss="focal"),
    Row("CaCo, LDAM", 91.78, 86.31, 2.29, attention="CaCo", loss="ldam"),
    Row("CaCo, joint loss", 93.39, 86.35, 2.29, attention="CaCo", loss="joint"),
)
_ATTENTION = (
    Row("SE", 90.88, 83.44, 2.18),
    Row("CBAM", 91.48, 85.72, 2.20, attention="CBAM"),
    Row("SeCo", 89.68, 78.70, 2.64, attention="SeCo"),
    Row("Eca", 90.98, 82.64, 2.08, attention="Eca"),
    Row("CaCo", 91.78, 85.70, 2.29, attention="CaCo"),
    Row("CaCo + joint loss", 93.39, 86.35, 2.29, attention="CaCo", loss="joint"),
)

TABLES = {
    2: Table("table", 2, "with and without ImageNet weights", _PRETRAINING),
    3: Table("table", 3, "backbones", _BACKBONES),
    4: Table("table", 4, "losses", _LOSSES),
    5: Table("table", 5, "attention", _ATTENTION),
}
FIGURES = {
    6: Table("figure", 6, "training loss and validation accuracy of five backbones", _BACKBONES),
    7: Table("figure", 7, "confusion matrices of six models", _ATTENTION),
}
