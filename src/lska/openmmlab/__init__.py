"""Detection and segmentation with mmdet and mmseg on the backbone of `lska.models`."""
