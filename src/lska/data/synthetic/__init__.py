"""Generated scenes: exact shape labels, texture labels, boxes and masks, without any download."""

from lska.data.synthetic.classification import (
    ClassificationSettings,
    classification_scene,
    write_classification_set,
)
from lska.data.synthetic.render import STYLES, render
from lska.data.synthetic.scene import (
    Background,
    Labels,
    Paint,
    Scene,
    SceneObject,
    SceneSettings,
    compose_scene,
)
from lska.data.synthetic.seeds import HELD_OUT, is_held_out
from lska.data.synthetic.shapes import SHAPES, shape_outline
from lska.data.synthetic.sheet import contact_sheet
from lska.data.synthetic.textures import TEXTURES, texture_field

__all__ = [
    "HELD_OUT",
    "SHAPES",
    "STYLES",
    "TEXTURES",
    "Background",
    "ClassificationSettings",
    "Labels",
    "Paint",
    "Scene",
    "SceneObject",
    "SceneSettings",
    "classification_scene",
    "compose_scene",
    "contact_sheet",
    "is_held_out",
    "render",
    "shape_outline",
    "texture_field",
    "write_classification_set",
]
