"""A picture of the ground that registration can hold on to."""

import cv2
import numpy as np

SIZE = (240, 320)


def ground(seed: int) -> np.ndarray:
    """Grey uint8, of patches of several sizes; larger than a frame by 60 pixels on each side."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((SIZE[0] + 120, SIZE[1] + 120), np.float32)
    for cell in (4, 12, 40):
        coarse = rng.normal(0, 18, [length // cell + 2 for length in picture.shape]).astype(np.float32)
        picture += cv2.resize(coarse, picture.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 110, 0, 255).astype(np.uint8)
