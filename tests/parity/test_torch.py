"""Every layer and loss against PyTorch, outputs and gradients, over random shapes and settings.

Arrays are made in this library's layout; the functions on PyTorch's side move the axes themselves, so that gradients
come back in our layout too. Float32 throughout, with the tolerance and its reason in `helpers.close`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal

import jaxcnn as cnn
from jaxcnn import losses

torch = pytest.importorskip("torch")
F = torch.nn.functional

DIMENSIONS = pytest.mark.parametrize("ndim", [1, 2, 3], ids=["1d", "2d", "3d"])
SEEDS = pytest.mark.parametrize("seed", range(8))


def agree(ours, theirs, *arrays, tolerance=1e-5):
    """Asserts that two functions of float arrays have the same values and the same gradients by each of them."""
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = theirs(*tensors)
    weight = normal(99, *expected.shape)
    expected.backward(torch.tensor(weight))

    @jax.jit
    def run(*arrays):
        output, backward = jax.vjp(ours, *arrays)
        return output, backward(jnp.asarray(weight))

    wanted = (expected.detach().numpy(), tuple(t.grad.numpy() for t in tensors))
    close(run(*arrays), wanted, tolerance)


def applied(layer, *names):
    """The layer as a function of its input and of the parameters called so."""
    return lambda x, *params: layer.apply(dict(zip(names, params, strict=True)), {}, x)[0]


def channels_first(function):
    """A function of `(N, C, *spatial)` as one of `(N, *spatial, C)`."""
    return lambda x, *rest: function(x.movedim(-1, 1), *rest).movedim(1, -1)


class Draw:
    """Random settings, one a dimension."""

    def __init__(self, ndim, seed):
        self.rng, self.ndim = np.random.default_rng([ndim, seed]), ndim

    def one(self, low, high):
        return int(self.rng.integers(low, high))

    def each(self, low, high):
        return tuple(self.one(low, high) for _ in range(self.ndim))

    def below(self, limits):
        return tuple(self.one(0, max(limit, 1)) for limit in limits)

    def coin(self):
        return bool(self.rng.integers(2))

    def array(self, *shape):
        return self.rng.normal(size=shape).astype(np.float32)


# --- convolution -------------------------------------------------------------------------------------------------


@DIMENSIONS
@SEEDS
def test_conv(ndim, seed):
    draw = Draw(ndim, seed)
    window, stride, dilation, padding = draw.each(1, 4), draw.each(1, 4), draw.each(1, 3), draw.each(0, 3)
    groups, bias = draw.one(1, 4), draw.coin()
    channels, features = groups * draw.one(1, 3), groups * draw.one(1, 3)
    sizes = tuple(d * (f - 1) + 1 + w for f, d, w in zip(window, dilation, draw.each(0, 5), strict=True))
    layer = cnn.conv(features, window, stride, padding, dilation=dilation, groups=groups, bias=bias, floor=True)
    conv = (F.conv1d, F.conv2d, F.conv3d)[ndim - 1]
    arrays = [draw.array(2, *sizes, channels), draw.array(*window, channels // groups, features)]
    if bias:
        arrays.append(draw.array(features))

    def theirs(x, kernel, bias=None):
        weight = kernel.permute(ndim + 1, ndim, *range(ndim))
        return channels_first(lambda x: conv(x, weight, bias, stride, padding, dilation, groups))(x)

    agree(applied(layer, *["kernel", "bias"][: 1 + bias]), theirs, *arrays)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch copies the input then
@pytest.mark.parametrize(("window", "dilation"), [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 3)])
def test_conv_same_at_stride_1(window, dilation):
    def theirs(x, kernel):
        weight = kernel.permute(3, 2, 0, 1)
        return channels_first(lambda x: F.conv2d(x, weight, padding="same", dilation=dilation))(x)

    ours = applied(cnn.conv(3, window, 1, "SAME", dilation=dilation, bias=False), "kernel")
    agree(ours, theirs, normal(0, 2, 7, 8, 4), normal(1, window, window, 4, 3))


@DIMENSIONS
@SEEDS
def test_conv_transpose(ndim, seed):
    draw = Draw(ndim, seed)
    window, stride, dilation = draw.each(1, 5), draw.each(1, 4), draw.each(1, 3)
    padding = draw.below([d * (f - 1) // 2 + 1 for f, d in zip(window, dilation, strict=True)])
    extra = draw.below([max(s, d) for s, d in zip(stride, dilation, strict=True)])
    channels, features, bias = draw.one(1, 4), draw.one(1, 4), draw.coin()
    layer = cnn.conv_transpose(features, window, stride, padding, dilation=dilation, output_padding=extra, bias=bias)
    conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[ndim - 1]
    arrays = [draw.array(2, *draw.each(1, 5), channels), draw.array(*window, channels, features)]
    if bias:
        arrays.append(draw.array(features))

    def theirs(x, kernel, bias=None):
        weight = kernel.movedim((-2, -1), (0, 1))
        return channels_first(lambda x: conv(x, weight, bias, stride, padding, extra, 1, dilation))(x)

    agree(applied(layer, *["kernel", "bias"][: 1 + bias]), theirs, *arrays)


# --- fully connected ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 7), (2, 3, 4, 7)], ids=str)
def test_dense(shape):
    agree(
        applied(cnn.dense(5), "kernel", "bias"),
        lambda x, kernel, bias: F.linear(x, kernel.T, bias),
        normal(0, *shape), normal(1, 7, 5), normal(2, 5),
    )  # fmt: skip


def test_maxout():
    agree(
        applied(cnn.maxout(5, 3), "kernel", "bias"),
        lambda x, kernel, bias: torch.stack([x @ k + b for k, b in zip(kernel, bias, strict=True)]).amax(0),
        normal(0, 4, 7), normal(1, 3, 7, 5), normal(2, 3, 5),
    )  # fmt: skip


def test_embed():
    words = np.random.default_rng(0).integers(0, 11, (4, 9))
    layer = cnn.embed(11, 5)
    agree(
        lambda kernel: layer.apply({"kernel": kernel}, {}, words)[0],
        lambda kernel: F.embedding(torch.tensor(words), kernel),
        normal(1, 11, 5),
    )


# --- pooling -----------------------------------------------------------------------------------------------------


def pooling(ndim, seed):
    """Input with many equal values, window, stride, padding (PyTorch allows half a window), ceil."""
    draw = Draw(ndim, seed)
    window, stride = draw.each(1, 5), draw.each(1, 4)
    padding = draw.below([f // 2 + 1 for f in window])
    x = np.round(draw.array(2, *(f + w for f, w in zip(window, draw.each(0, 5), strict=True)), 3))
    return x, window, stride, padding, draw.coin()


@DIMENSIONS
@SEEDS
def test_max_pool(ndim, seed):
    x, window, stride, padding, ceil = pooling(ndim, seed)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[ndim - 1]
    agree(
        applied(cnn.max_pool(window, stride, padding, ceil=ceil)),
        channels_first(lambda x: pool(x, window, stride, padding, ceil_mode=ceil)),
        x,
    )


@DIMENSIONS
@SEEDS
def test_avg_pool(ndim, seed):
    x, window, stride, padding, ceil = pooling(ndim, seed)
    count = seed % 2 == 0
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[ndim - 1]
    agree(
        applied(cnn.avg_pool(window, stride, padding, ceil=ceil, count_padding=count)),
        channels_first(lambda x: pool(x, window, stride, padding, ceil, count)),
        x,
    )


@DIMENSIONS
def test_global_pools(ndim):
    x = np.round(2 * normal(ndim, 2, *(3, 4, 5)[:ndim], 6))  # equal maxima share their gradient
    axes = tuple(range(1, ndim + 1))
    agree(cnn.global_avg_pool, lambda x: x.mean(axes), x)
    agree(cnn.global_max_pool, lambda x: x.amax(axes), x)


@pytest.mark.parametrize("seed", range(6))
@DIMENSIONS
def test_adaptive_avg_pool(ndim, seed):
    draw = Draw(ndim, seed)
    x, size = draw.array(2, *draw.each(1, 12), 3), draw.each(1, 8)
    pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[ndim - 1]
    agree(applied(cnn.adaptive_avg_pool(size)), channels_first(lambda x: pool(x, size)), x)


# --- normalization -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True], ids=["evaluated", "trained"])
@pytest.mark.parametrize("ndim", [0, 1, 2, 3])
def test_batch_norm(ndim, train):
    draw = Draw(ndim, 0)
    x, scale, bias = 3 * draw.array(4, *draw.each(2, 5), 6) + 1, draw.array(6), draw.array(6)
    state = {"mean": draw.array(6), "var": np.exp(draw.array(6))}
    layer = cnn.batch_norm(momentum=0.7, eps=1e-3)
    running = {name: torch.tensor(value) for name, value in state.items()}

    def ours(x, scale, bias):
        return layer.apply({"scale": scale, "bias": bias}, state, x, train=train)[0]

    def theirs(x, scale, bias):
        norm = lambda x: F.batch_norm(x, running["mean"], running["var"], scale, bias, train, 0.3, 1e-3)  # noqa: E731
        return channels_first(norm)(x)

    agree(ours, theirs, x, scale, bias)
    _, new_state = layer.apply({"scale": scale, "bias": bias}, state, x, train=train)
    close(new_state, {name: tensor.numpy() for name, tensor in running.items()})


@pytest.mark.parametrize("groups", [1, 2, 6])
@DIMENSIONS
def test_group_norm(ndim, groups):
    draw = Draw(ndim, groups)
    agree(
        applied(cnn.group_norm(groups, 1e-3), "scale", "bias"),
        lambda x, scale, bias: channels_first(lambda x: F.group_norm(x, groups, scale, bias, 1e-3))(x),
        draw.array(3, *draw.each(2, 5), 6), draw.array(6), draw.array(6),
    )  # fmt: skip


@pytest.mark.parametrize("axes", [(-1,), (-2, -1), (-3, -2, -1)], ids=len)
def test_layer_norm(axes):
    shape = (3, 4, 5, 6)
    normalized = shape[axes[0] :]
    agree(
        applied(cnn.layer_norm(1e-3, axes=axes), "scale", "bias"),
        lambda x, scale, bias: F.layer_norm(x, normalized, scale, bias, 1e-3),
        normal(0, *shape), normal(1, *normalized), normal(2, *normalized),
    )  # fmt: skip


@SEEDS
def test_local_response_norm(seed):
    draw = Draw(2, seed)
    width, alpha, beta, k = draw.one(1, 9), draw.rng.uniform(0.1, 3), draw.rng.uniform(0.3, 1.5), draw.rng.uniform(1, 3)
    agree(
        applied(cnn.local_response_norm(width, alpha / width, beta, k)),
        channels_first(lambda x: F.local_response_norm(x, width, alpha, beta, k)),
        draw.array(2, 3, 4, 7),
    )


# --- activations -------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "relu": (cnn.relu, F.relu),
    "sigmoid": (cnn.sigmoid, torch.sigmoid),
    "tanh": (cnn.tanh, torch.tanh),
    "softmax": (cnn.softmax, lambda x: F.softmax(x, -1)),
    "gelu": (cnn.gelu, F.gelu),
    "gelu_tanh": (cnn.gelu_tanh, lambda x: F.gelu(x, approximate="tanh")),
    "silu": (cnn.silu, F.silu),
    "relu6": (cnn.relu6, F.relu6),
    "hard_sigmoid": (cnn.hard_sigmoid, F.hardsigmoid),
    "hard_swish": (cnn.hard_swish, F.hardswish),
    "leaky_relu": (cnn.leaky_relu(0.1), lambda x: F.leaky_relu(x, 0.1)),
    "elu": (cnn.elu(0.7), lambda x: F.elu(x, 0.7)),
}


@pytest.mark.parametrize(("ours", "theirs"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations(ours, theirs):
    x = 5 * normal(0, 4, 3, 9)
    agree(applied(cnn.core.as_layer(ours)), theirs, x)


def test_relus_derivative_at_0():
    agree(cnn.relu, F.relu, np.zeros((1, 3), np.float32))
    agree(cnn.relu6, F.relu6, np.array([[0, 6]], np.float32))


# --- channels and pixels -----------------------------------------------------------------------------------------

SHUFFLES = {
    "pixel_shuffle": (cnn.pixel_shuffle(2), lambda x: F.pixel_shuffle(x, 2)),
    "channel_shuffle": (cnn.channel_shuffle(4), lambda x: F.channel_shuffle(x, 4)),
    "nearest": (cnn.upsample(3), lambda x: F.interpolate(x, scale_factor=3)),
    "bilinear": (
        cnn.upsample(2, "bilinear"),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), SHUFFLES.values(), ids=SHUFFLES)
def test_channels_and_pixels(ours, theirs):
    agree(applied(ours), channels_first(theirs), normal(0, 2, 3, 5, 12))


@pytest.mark.parametrize("shared", [False, True])
def test_prelu(shared):
    agree(
        applied(cnn.prelu(shared=shared), "slope"),
        lambda x, slope: channels_first(lambda x: F.prelu(x, slope))(x),
        normal(0, 2, 3, 4, 5), normal(1, 1 if shared else 5),
    )  # fmt: skip


# --- losses: one number an example -------------------------------------------------------------------------------


def over_rest(tensor, how):
    return how(tensor.reshape(len(tensor), -1), 1)


@pytest.mark.parametrize("shape", [(5,), (5, 3, 4)], ids=["classes", "pixels"])
def test_softmax_cross_entropy(shape):
    labels = np.random.default_rng(0).integers(0, 7, shape)

    def theirs(x):
        return over_rest(F.cross_entropy(x.movedim(-1, 1), torch.tensor(labels), reduction="none"), torch.mean)

    agree(lambda x: losses.softmax_cross_entropy(x, labels), theirs, 5 * normal(0, *shape, 7))


ELEMENTWISE = {
    "sigmoid_cross_entropy": (F.binary_cross_entropy_with_logits, torch.mean),
    "l1": (F.l1_loss, torch.sum),
    "l2": (F.mse_loss, torch.sum),
    "smooth_l1": (F.smooth_l1_loss, torch.sum),
}


@pytest.mark.parametrize("mixed", [False, True], ids=["classes", "probabilities"])
def test_the_loss_of_a_recipe_with_label_smoothing(mixed):
    """In training, validation and evaluation, with classes and with the probabilities of mixup."""
    logits, classes = normal(0, 6, 5), np.arange(6) % 5
    labels = np.random.default_rng(1).dirichlet(np.ones(5), 6).astype(np.float32) if mixed else classes
    recipe = cnn.train.Recipe(label_smoothing=0.1)
    task = cnn.tasks.find("classify")
    facts = {"image": [8, 8, 1], "classes": list("abcde"), "preprocess": {"size": [8, 8], "mean": [0], "std": [1]}}
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none")
    for objective in (task.objective(task.completed(recipe), facts), task.evaluation(recipe, facts)):
        agree(lambda o, loss=objective.loss: loss(o, labels), lambda o: criterion(o, torch.tensor(labels)), logits)
    plain = task.objective(task.completed(cnn.train.Recipe()), facts).loss(logits, labels)
    close(plain, F.cross_entropy(torch.tensor(logits), torch.tensor(labels), reduction="none").numpy())


@pytest.mark.parametrize("shape", [(6,), (6, 4), (6, 2, 3)], ids=str)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_losses_of_single_values(name, shape):
    function, how = ELEMENTWISE[name]
    labels = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    agree(
        lambda x: getattr(losses, name)(x, labels),
        lambda x: over_rest(function(x, torch.tensor(labels), reduction="none"), how),
        3 * normal(1, *shape),
    )


def test_multiclass_hinge():
    # PyTorch sums over the wrong classes and divides by their number and one: with two classes that is half of ours.
    labels = np.array([0, 1, 1, 0, 1])
    agree(
        lambda x: losses.multiclass_hinge(x, labels),
        lambda x: 2 * F.multi_margin_loss(x, torch.tensor(labels), reduction="none"),
        2 * normal(0, 5, 2),
    )


def test_kl_divergence():
    targets = np.random.default_rng(0).dirichlet(np.ones(7), 5).astype(np.float32)
    agree(
        lambda x: losses.kl_divergence(x, targets),
        lambda x: F.kl_div(F.log_softmax(x, -1), torch.tensor(targets), reduction="none").sum(-1),
        normal(0, 5, 7),
    )


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (3, 3, 2, 7)], ids=str)
def test_muon(shape):
    """Four steps against torch.optim.Muon, which takes matrices `(out, in)` and orthogonalizes them in bfloat16.

    Tolerance: 5 % of the largest value. bfloat16 has 8 bits, and each of the five iterations multiplies small singular
    values by 3.4; another momentum, factor or order of the axes gives other numbers altogether.
    """
    gradients = [normal(seed, *shape) for seed in range(4)]
    weight = torch.nn.Parameter(torch.zeros(shape[-1], int(np.prod(shape[:-1]))))
    theirs = torch.optim.Muon([weight], lr=0.1, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    ours = cnn.train.make_optimizer("muon", 0.1)
    params = {"kernel": jnp.zeros(shape)}
    state = ours.init(params)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient.reshape(-1, shape[-1]).T.copy())
        theirs.step()
        updates, state = jax.jit(ours.update)({"kernel": jnp.asarray(gradient)}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    close(params["kernel"], weight.detach().numpy().T.reshape(shape), 0.05)
