"""Small runs for tests."""

MODEL = "timm/mobilenetv3_small_050"
QUICK = ["train", "--image-size", "32", "--epochs", "1", "--model", MODEL]
