"""The Keras notebook in real Keras 2.15: writes what it does to keras_notebook.json, for test_notebook.py.

    python3.11 -m venv KERAS && KERAS/bin/pip install 'tensorflow-cpu==2.15.*' 'scipy<1.14'
    KERAS/bin/python tests/keras_notebook.py

Twenty steps of ResNet-20 on images of 16x16, one with a batch of 16, with shifts, flips, L2 and two drops of the
learning rate; the callbacks on many curves; the batches of some epochs. The test imports the steps' input from here.

For the benchmark (src/benchmark.py --keras KERAS/bin/python) it is started with a batch size and a number of steps, and
trains so many steps for each line of its standard input.
"""

import json
import random
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_suffix(".json")
COUNT, SHORT = 19 * 64 + 16, 7  # images; the step, from 0, that takes the batch of 16
DRAW = np.random.RandomState(0)
LABELS = np.arange(COUNT) % 10
COARSE = DRAW.randint(256, size=(10, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)  # a pattern for each class
PIXELS = ((COARSE[LABELS] + 7 * DRAW.randint(256, size=(COUNT, 16, 16, 3))) // 8).astype(np.uint8)
ROWS, COLUMNS = DRAW.uniform(-4, 4, (2, COUNT))
FLIPS = DRAW.rand(COUNT) < 0.5
BATCHES = np.split(np.arange(COUNT), [*range(64, 64 * SHORT + 1, 64), *range(64 * SHORT + 16, COUNT, 64)])
LOSSES = (
    [2.0 * 0.97**epoch for epoch in range(120)],
    [2.0 - 0.0099 * epoch for epoch in range(60)],  # no fall of 0.01 in one epoch; in two, yes
    [1.0] * 80,
    [1 + 0.5 * 0.9**epoch + 0.02 * random.Random(epoch).random() for epoch in range(150)],
)
CHANGES: tuple[dict[str, float], ...] = ({}, {"min_delta": 0.0}, {"min_lr": 0.02}, {"patience": 1})
ACCURACIES = [[random.Random(40 * run + i).randint(20 + i // 2, 60) / 100 for i in range(40)] for run in range(30)]


def kernel(layer: str, shape: tuple[int, ...]) -> np.ndarray:
    """Glorot's weights in Keras' order (height, width, in, out), from the layer's name as the seed."""
    reach = (6 / (sum(shape[-2:]) * np.prod(shape[:-2]))) ** 0.5
    return np.random.RandomState(zlib.crc32(layer.encode())).uniform(-reach, reach, shape)


def build(keras: Any, shape: tuple[int, ...]) -> Any:
    layers = keras.layers

    def conv(x: Any, name: str, norm: str, filters: int, size: int = 3, stride: int = 1) -> Any:
        decay = keras.regularizers.l2(1e-4)
        layer = layers.Conv2D(filters, size, stride, "same", use_bias=False, kernel_regularizer=decay, name=name)
        return layers.BatchNormalization(name=norm)(layer(x))

    inputs = keras.Input(shape)
    x = layers.ReLU()(conv(inputs, "conv1", "bn1", 16))
    for name in (f"layer{stage}.{block}." for stage in (1, 2, 3) for block in (0, 1, 2)):
        filters, stride = 8 * 2 ** int(name[5]), 2 if name in ("layer2.0.", "layer3.0.") else 1
        y = layers.ReLU()(conv(x, f"{name}conv1", f"{name}bn1", filters, stride=stride))
        y = conv(y, f"{name}conv2", f"{name}bn2", filters)
        if stride == 2:
            x = conv(layers.AveragePooling2D()(x), f"{name}downsample.1", f"{name}downsample.2", filters, size=1)
        x = layers.ReLU()(layers.Add()([y, x]))
    x = layers.Dense(10, activation="softmax", name="fc")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.set_weights([kernel(layer.name, layer.kernel.shape), *layer.get_weights()[1:]])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), "sparse_categorical_crossentropy")
    return model


def train(keras: Any, dtype: str, batches: list[np.ndarray]) -> dict[str, Any]:
    """Each step's loss with its L2 term, its learning rate, and the norm of each weight at the end."""
    keras.backend.set_floatx(dtype)
    keras.mixed_precision.set_global_policy(dtype)  # else it stays at the first floatx
    scaled = (PIXELS / 255).astype(dtype)
    scaled = (scaled - scaled.mean(0)) / scaled.std(0)
    move = keras.preprocessing.image.ImageDataGenerator().apply_transform  # 2.15 moves columns by tx, rows by ty
    moves = [{"tx": c, "ty": r, "flip_horizontal": f} for r, c, f in zip(ROWS, COLUMNS, FLIPS, strict=True)]
    moved = np.stack([move(image, how) for image, how in zip(scaled, moves, strict=True)])
    model, losses, rates = build(keras, PIXELS.shape[1:]), [], []
    plateau = keras.callbacks.ReduceLROnPlateau("loss", 0.1**0.5, patience=1, min_delta=10)
    plateau.set_model(model)
    for step, batch in enumerate(batches):
        rates.append(float(model.optimizer.learning_rate.numpy()))
        losses.append(float(model.train_on_batch(moved[batch], LABELS[batch])))
        if step % 5 == 4:  # an "epoch" without an improvement by 10, but for the first
            plateau.on_epoch_end(step // 5, {"loss": losses[-1]})
    norms = {weights.name: float(np.linalg.norm(weights.numpy().astype(float))) for weights in model.weights}
    return {"losses": losses, "rates": rates, "norms": norms}


def replay(keras: Any, callback: Any, curve: list[float]) -> list[float]:
    """The learning rate after each epoch until `callback` ends the training; `curve` is what it monitors."""
    model = keras.Sequential()
    model.compile(keras.optimizers.SGD(0.1))
    callback.set_model(model)
    callback.on_train_begin()
    model.stop_training, rates = False, []
    for epoch, value in enumerate(curve):
        if not model.stop_training:
            callback.on_epoch_end(epoch, {callback.monitor: value})
            rates.append(float(model.optimizer.learning_rate.numpy()))
    return rates


def train_on_request(batch: int, steps: int) -> None:
    """Train `steps` steps on random images, as the notebook does, for each line of standard input, and answer it."""
    import tensorflow as tf

    keras, shape = tf.keras, (32, 32, 3)
    images, labels = DRAW.rand(10_000, *shape).astype("float32"), DRAW.randint(10, size=10_000)
    moves = {"width_shift_range": 0.125, "height_shift_range": 0.125, "horizontal_flip": True}  # 4 pixels of 32
    flow = keras.preprocessing.image.ImageDataGenerator(**moves).flow(images, labels, batch_size=batch)
    model = build(keras, shape)
    for _ in sys.stdin:
        model.fit(flow, steps_per_epoch=steps, verbose=0)
        print("done", flush=True)


def main() -> None:
    import tensorflow as tf

    keras, sizes = tf.keras, []
    steps = {"float64": train(keras, "float64", BATCHES), "float32": train(keras, "float32", BATCHES[:1])}

    plan = {"monitor": "loss", "factor": 0.1**0.5, "patience": 5, "min_delta": 0.01, "min_lr": 1e-6}
    cases = [(losses, changes) for losses in LOSSES for changes in CHANGES]
    plateau = [replay(keras, keras.callbacks.ReduceLROnPlateau(**plan | changes), losses) for losses, changes in cases]
    stopping = [keras.callbacks.EarlyStopping("val_accuracy", patience=3, mode="max") for _ in ACCURACIES]
    stops = [(len(replay(keras, one, c)), one.best_epoch) for one, c in zip(stopping, ACCURACIES, strict=True)]

    class Model(keras.Model):  # type: ignore[misc]
        def train_step(self, data: Any) -> dict[str, float]:
            tf.py_function(lambda labels: sizes.append(len(labels)), [data[1]], [])
            return {"loss": 0.0}

    model, flow = Model(), keras.preprocessing.image.ImageDataGenerator().flow
    model.compile()
    model.fit(flow(np.zeros((21, 8, 8, 3)), np.arange(21), batch_size=4), steps_per_epoch=5, epochs=60, verbose=0)
    FILE.write_text(json.dumps(steps | {"plateau": plateau, "stops": stops, "sizes": sizes}) + "\n")


if __name__ == "__main__":
    train_on_request(*map(int, sys.argv[1:])) if sys.argv[1:] else main()
