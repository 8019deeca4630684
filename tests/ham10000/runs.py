"""Small runs for tests."""

MODEL = "timm/test_efficientnet"
EPOCHS = 6  # of the run that all read: it has learned enough, whatever the rounding
QUICK = ["train", "--image-size", "32", "--epochs", "1", "--model", MODEL]
