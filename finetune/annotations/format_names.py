"""The names of the formats of annotation files, as the command line takes them."""

from typing import Literal

Format = Literal["csv", "boris", "elan", "label-studio", "cvat", "via", "activitynet", "audacity", "vtt"]
ExportFormat = Literal["csv", "boris", "elan", "label-studio", "activitynet", "audacity", "vtt"]
Content = Literal["events", "objects"]
ObjectFormat = Literal["coco", "yolo", "cvat", "mot", "voc", "label-studio"]
ObjectExportFormat = Literal["coco", "mot", "cvat"]
AnyFormat = Literal[Format, ObjectFormat]
AnyExportFormat = Literal[ExportFormat, ObjectExportFormat]
