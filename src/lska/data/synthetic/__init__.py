"""Generated scenes: exact shape labels, texture labels, boxes and masks, without any download."""

from lska.data.synthetic.adversarial import AdversarialSettings, adversarial_scene, write_adversarial_set
from lska.data.synthetic.boxed import DetectionSettings, write_detection_set
from lska.data.synthetic.contact_sheets import contact_sheet
from lska.data.synthetic.cue_conflict_images import CueConflictSettings, write_cue_conflict_set
from lska.data.synthetic.dense_scenes import dense_scene
from lska.data.synthetic.labelled import ClassificationSettings, classification_scene, write_classification_set
from lska.data.synthetic.render import STYLES, render
from lska.data.synthetic.renditions import RenditionSettings, write_rendition_set
from lska.data.synthetic.scene import Background, Labels, Paint, Scene, SceneObject, SceneSettings, compose_scene
from lska.data.synthetic.seeds import HELD_OUT, is_held_out
from lska.data.synthetic.segmented import SegmentationSettings, write_segmentation_set
from lska.data.synthetic.shapes import SHAPES, shape_outline
from lska.data.synthetic.texture_set import TextureSettings, texture_image, write_texture_set
from lska.data.synthetic.textures import TEXTURES, texture_field

__all__ = [
    "HELD_OUT",
    "SHAPES",
    "STYLES",
    "TEXTURES",
    "AdversarialSettings",
    "Background",
    "ClassificationSettings",
    "CueConflictSettings",
    "DetectionSettings",
    "Labels",
    "Paint",
    "RenditionSettings",
    "Scene",
    "SceneObject",
    "SceneSettings",
    "SegmentationSettings",
    "TextureSettings",
    "adversarial_scene",
    "classification_scene",
    "compose_scene",
    "contact_sheet",
    "dense_scene",
    "is_held_out",
    "render",
    "shape_outline",
    "texture_field",
    "texture_image",
    "write_adversarial_set",
    "write_classification_set",
    "write_cue_conflict_set",
    "write_detection_set",
    "write_rendition_set",
    "write_segmentation_set",
    "write_texture_set",
]
