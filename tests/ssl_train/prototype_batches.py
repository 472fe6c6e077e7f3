"""Tiny batches for the tests of DINO and iBOT, the same on any number of processes."""

import torch

from ssl_train.data.collate import Batch

SIDE, SMALL_SIDE, PATCH = 32, 16, 8
PATCHES = (SIDE // PATCH) ** 2


def batch_of(num_images: int = 4, *, num_local: int = 2, masked: bool = False, own: slice | None = None) -> Batch:
    """`num_images` images of which a process has its `own`.

    If `masked`, image i has 2 i patches hidden in its first view (none in that of image 0), and every odd one one patch
    in its second view.
    """
    random = torch.Generator().manual_seed(1)
    views = torch.randn(2, num_images, 3, SIDE, SIDE, generator=random)
    local = torch.randn(num_local, num_images, 3, SMALL_SIDE, SMALL_SIDE, generator=random)
    masks = torch.zeros(2, num_images, PATCHES, dtype=torch.bool)
    if masked:
        for image in range(num_images):
            masks[0, image, : 2 * image] = True
            masks[1, image, -1] = image % 2 == 1
    own = own or slice(num_images)
    mask = masks[:, own].flatten(0, 1)
    return Batch(
        keys=tuple(str(image) for image in range(num_images))[own],
        global_crops=views[:, own].flatten(0, 1),
        local_crops=local[:, own].flatten(0, 1),
        masks=mask,
        masked=mask.flatten().nonzero().flatten(),
        mask_weights=(1 / mask.sum(-1).clamp(min=1)).unsqueeze(-1).expand_as(mask)[mask],
    )
