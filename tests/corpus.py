"""Small videos in many containers, codecs and flags, made by the ffmpeg program: their frames differ from each other.

`ENCODED` are made of a drawn source of 40 frames, the others of those, without decoding: with other timestamps, cut,
joined, damaged.
"""

import shlex
import subprocess
from collections import defaultdict
from itertools import islice
from pathlib import Path

SOURCE = "testsrc2=s=64x48:r=25:d=1.6,scroll=horizontal=0.03:vertical=0.02"  # 40 frames
OUTPUTS_PER_PROCESS = 20
X264 = "-c:v libx264 -preset ultrafast -threads 1 -x264-params"
X265 = "-c:v libx265 -preset ultrafast -x265-params log-level=none:pools=none:frame-threads=1"
VP8 = "-c:v libvpx -deadline realtime -cpu-used 8 -threads 1"
VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -threads 1"
AV1 = "-c:v libsvtav1 -preset 12 -s 64x64"
VARIABLE = "-vf select='not(between(n\\,8\\,22))' -fps_mode vfr"

DASH = "frag_keyframe+empty_moov+default_base_moof+negative_cts_offsets"

ENCODED = {
    # H.264
    "h264_no_b.mp4": f"{X264} bframes=0:keyint=12",
    "h264_b2.mp4": f"{X264} bframes=2:b-adapt=0:keyint=12:scenecut=0",
    "h264_b3_pyramid.mp4": f"{X264} bframes=3:b-adapt=0:b-pyramid=normal:keyint=12:scenecut=0",
    "h264_open_gop.mp4": f"{X264} bframes=3:b-adapt=0:open-gop=1:keyint=10:scenecut=0",
    "h264_intra_refresh.mp4": f"{X264} intra-refresh=1:keyint=10",
    "h264_intra_only.mov": f"{X264} keyint=1",
    "h264_interlaced.mov": f"{X264} tff=1:bframes=2:keyint=12 -flags +ildct+ilme",
    "h264_444.mp4": f"{X264} keyint=10:bframes=2 -pix_fmt yuv444p",
    "h264_10bit.mp4": f"{X264} keyint=10:bframes=2 -pix_fmt yuv420p10le",
    "h264_gray.mkv": f"{X264} keyint=10:bframes=2 -pix_fmt gray",
    "h264_slices.mp4": f"{X264} slices=3:bframes=2:keyint=12",
    "h264_odd_size.mp4": f"{X264} keyint=10:bframes=2 -vf crop=63:47 -pix_fmt yuv444p",
    "h264_fragments.mp4": f"{X264} bframes=3:keyint=12 -movflags frag_keyframe+empty_moov",
    "h264_dash.mp4": f"{X264} bframes=3:keyint=12 -movflags {DASH}",
    "h264_no_edit_list.mp4": f"{X264} bframes=3:keyint=12 -use_editlist 0",
    "h264_faststart.mp4": f"{X264} bframes=2:keyint=12 -movflags faststart",
    "h264_vfr.mp4": f"{X264} bframes=2:keyint=12 {VARIABLE}",
    "h264_vfr.mkv": f"{X264} bframes=2:keyint=12 {VARIABLE}",
    "h264_vfr.ts": f"{X264} bframes=2:keyint=12 {VARIABLE}",
    "h264_vfr.flv": f"{X264} bframes=2:keyint=12 {VARIABLE}",
    "h264_vfr.avi": f"{X264} bframes=0:keyint=12 {VARIABLE}",
    "h264_b.mkv": f"{X264} bframes=3:b-adapt=0:keyint=12",
    "h264_open.mkv": f"{X264} bframes=3:b-adapt=0:open-gop=1:keyint=10:scenecut=0",
    "h264_refresh.ts": f"{X264} intra-refresh=1:keyint=10:bframes=2",
    "h264_open.ts": f"{X264} bframes=3:b-adapt=0:open-gop=1:keyint=10:scenecut=0",
    "h264_b.ts": f"{X264} bframes=3:keyint=12",
    "h264_b.m2ts": f"{X264} bframes=3:keyint=12",
    "h264_b.avi": f"{X264} bframes=3:keyint=12",
    "h264_open.avi": f"{X264} bframes=3:b-adapt=0:open-gop=1:keyint=10:scenecut=0",
    "h264_b.flv": f"{X264} bframes=3:keyint=12",
    "h264.3gp": f"{X264} bframes=0:keyint=12",
    "h264.mxf": f"{X264} bframes=2:keyint=12 -profile:v high422 -pix_fmt yuv422p10le",
    "h264.h264": f"{X264} bframes=2:keyint=12",
    "h264.nut": f"{X264} bframes=2:keyint=12",
    "h264_one_group.mp4": f"{X264} bframes=3:keyint=250",
    "h264_aud.mp4": f"{X264} bframes=3:keyint=12:aud=1",
    "h264_rgb.mkv": "-c:v libx264rgb -preset ultrafast -threads 1 -x264-params keyint=12:bframes=2",
    "h264_one_frame.mp4": f"{X264} keyint=12 -frames:v 1",
    "h264_two_frames.avi": f"{X264} bframes=2:keyint=12 -frames:v 2",
    # HEVC
    "hevc_b.mp4": f"{X265}:keyint=12:bframes=3 -tag:v hvc1",
    "hevc_open.mp4": f"{X265}:keyint=10:bframes=4:open-gop=1",
    "hevc_open.mkv": f"{X265}:keyint=10:bframes=4:open-gop=1",
    "hevc_no_b.mkv": f"{X265}:keyint=12:bframes=0",
    "hevc_layers.mkv": f"{X265}:keyint=12:bframes=3:temporal-layers=2",
    "hevc_10bit.mp4": f"{X265}:keyint=12:bframes=2 -pix_fmt yuv420p10le",
    "hevc_fields.mp4": f"{X265}:keyint=12:bframes=2:interlace=1",
    "hevc_fields.mkv": f"{X265}:keyint=12:bframes=2:interlace=tff",
    "hevc_b.ts": f"{X265}:keyint=12:bframes=3",
    "hevc_vfr.mkv": f"{X265}:keyint=12:bframes=3 {VARIABLE}",
    "hevc_repeated_headers.mp4": f"{X265}:keyint=12:bframes=3:repeat-headers=1 -tag:v hev1",
    # VP8, VP9, AV1
    "vp8.webm": f"{VP8} -g 12",
    "vp8_vfr.webm": f"{VP8} -g 12 {VARIABLE}",
    "vp8_resilient.mkv": f"{VP8} -g 30 -error-resilient 1",
    "vp8.avi": f"{VP8} -g 12",
    "vp8_alpha.webm": f"{VP8} -g 12 -pix_fmt yuva420p -auto-alt-ref 0",
    "vp8.ivf": f"{VP8} -g 12",
    "vp9.webm": f"{VP9} -g 12",
    "vp9_vfr.webm": f"{VP9} -g 12 {VARIABLE}",
    "vp9.ivf": f"{VP9} -g 12",
    "vp9_lossless.mkv": f"{VP9} -g 12 -lossless 1 -pix_fmt yuv444p",
    "av1.mkv": f"{AV1} -g 12",
    "av1.mp4": f"{AV1} -g 12",
    "av1.webm": f"{AV1} -g 30",
    "av1_vfr.mkv": f"{AV1} -g 12 {VARIABLE}",
    "av1_aom.mp4": "-c:v libaom-av1 -cpu-used 8 -usage realtime -g 12 -threads 1",
    "av1_aom_lag.webm": "-c:v libaom-av1 -cpu-used 8 -lag-in-frames 19 -g 12 -threads 1 -frames:v 25",
    "av1.ivf": f"{AV1} -g 12",
    "av1.obu": f"{AV1} -g 12",
    # MPEG-4 part 2 and its relatives
    "mpeg4.mp4": "-c:v mpeg4 -g 12",
    "mpeg4_b.mp4": "-c:v mpeg4 -bf 2 -g 12",
    "mpeg4_b.avi": "-c:v mpeg4 -bf 2 -g 12",
    "mpeg4_no_b.avi": "-c:v mpeg4 -g 12",
    "mpeg4_b.mkv": "-c:v mpeg4 -bf 2 -g 12",
    "mpeg4_closed.mp4": "-c:v mpeg4 -bf 2 -g 12 -flags +cgop -sc_threshold 1000000000",
    "mpeg4_qpel.avi": "-c:v mpeg4 -bf 2 -g 12 -flags +qpel+mv4",
    "mpeg4_interlaced.avi": "-c:v mpeg4 -g 12 -bf 2 -flags +ildct+ilme",
    "mpeg4_vfr.mp4": f"-c:v mpeg4 -bf 2 -g 12 {VARIABLE}",
    "mpeg4_vfr.mkv": f"-c:v mpeg4 -g 12 {VARIABLE}",
    "mpeg4.3gp": "-c:v mpeg4 -g 12",
    "mpeg4_vfr.3gp": f"-c:v mpeg4 -g 12 {VARIABLE}",
    "mpeg4_b.ts": "-c:v mpeg4 -bf 2 -g 12",
    "xvid_packed.avi": "-c:v libxvid -bf 2 -g 12 -qscale:v 4",
    "xvid_packed_long.avi": "-c:v libxvid -bf 3 -g 30 -qscale:v 4",
    "xvid_no_b.avi": "-c:v libxvid -bf 0 -g 12 -qscale:v 4",
    "msmpeg4v2.avi": "-c:v msmpeg4v2 -g 12",
    "msmpeg4v3.avi": "-c:v msmpeg4 -g 12",
    "msmpeg4v3.asf": "-c:v msmpeg4 -g 12",
    "wmv1.wmv": "-c:v wmv1 -g 12",
    "wmv2.wmv": "-c:v wmv2 -g 12",
    "wmv2_vfr.wmv": f"-c:v wmv2 -g 12 {VARIABLE}",
    "wmv2.avi": "-c:v wmv2 -g 12",
    "wmv2.mkv": "-c:v wmv2 -g 12",
    "h263.3gp": "-c:v h263 -g 12 -vf scale=176:144",
    "h263_vfr.3gp": "-c:v h263 -g 12 -vf select='not(between(n\\,8\\,22))',scale=176:144 -fps_mode vfr",
    "h263.avi": "-c:v h263 -g 12 -vf scale=176:144",
    "h263p.mov": "-c:v h263p -g 12",
    "h261.avi": "-c:v h261 -g 12 -vf scale=176:144",
    "flv1.flv": "-c:v flv -g 12",
    "flv1_vfr.flv": f"-c:v flv -g 12 {VARIABLE}",
    "flv1.avi": "-c:v flv -g 12",
    # MPEG-1, MPEG-2
    "mpeg1.mpg": "-c:v mpeg1video -bf 2 -g 12",
    "mpeg1.mkv": "-c:v mpeg1video -bf 2 -g 12",
    "mpeg1.avi": "-c:v mpeg1video -bf 2 -g 12",
    "mpeg2.mpg": "-c:v mpeg2video -bf 2 -g 12",
    "mpeg2.ts": "-c:v mpeg2video -bf 2 -g 12",
    "mpeg2_closed.ts": "-c:v mpeg2video -bf 2 -g 12 -flags +cgop -sc_threshold 1000000000",
    "mpeg2_interlaced.ts": "-c:v mpeg2video -bf 2 -g 12 -flags +ildct+ilme",
    "mpeg2.mkv": "-c:v mpeg2video -bf 2 -g 12",
    "mpeg2.mp4": "-c:v mpeg2video -bf 2 -g 12",
    "mpeg2.mxf": "-c:v mpeg2video -bf 2 -g 12",
    "mpeg2_422.mov": "-c:v mpeg2video -bf 2 -g 12 -pix_fmt yuv422p",
    "mpeg2_vfr.mkv": f"-c:v mpeg2video -bf 2 -g 12 {VARIABLE}",
    "mpeg2.m2v": "-c:v mpeg2video -bf 2 -g 12",
    # every picture alone, or nearly
    "mjpeg.avi": "-c:v mjpeg",
    "mjpeg.mov": "-c:v mjpeg",
    "mjpeg_vfr.mov": f"-c:v mjpeg {VARIABLE}",
    "mjpeg_vfr.mkv": f"-c:v mjpeg {VARIABLE}",
    "mjpeg.mkv": "-c:v mjpeg",
    "mjpeg.mjpeg": "-c:v mjpeg",
    "ljpeg.avi": "-c:v ljpeg -strict -2",
    "png.mov": "-c:v png",
    "png.avi": "-c:v png",
    "prores.mov": "-c:v prores_ks",
    "prores_vfr.mov": f"-c:v prores_ks {VARIABLE}",
    "prores_alpha.mov": "-c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le",
    "prores.mkv": "-c:v prores_ks",
    "dnxhr.mov": "-c:v dnxhd -profile:v dnxhr_sq -vf scale=256:128 -pix_fmt yuv422p",
    "dnxhr.mxf": "-c:v dnxhd -profile:v dnxhr_sq -vf scale=256:128 -pix_fmt yuv422p",
    "ffv1.mkv": "-c:v ffv1 -g 1",
    "ffv1_groups.mkv": "-c:v ffv1 -level 3 -g 12",
    "ffv1_old.mkv": "-c:v ffv1 -level 1 -coder 1 -context 1 -g 12",
    "ffv1.avi": "-c:v ffv1 -g 12",
    "ffv1_vfr.mkv": f"-c:v ffv1 -g 12 {VARIABLE}",
    "huffyuv.avi": "-c:v huffyuv",
    "ffvhuff.mkv": "-c:v ffvhuff -context 1 -non_deterministic 0",
    "utvideo.avi": "-c:v utvideo",
    "magicyuv.mkv": "-c:v magicyuv",
    "rawvideo.avi": "-c:v rawvideo -pix_fmt yuv420p",
    "rawvideo.mov": "-c:v rawvideo -pix_fmt uyvy422",
    "rawvideo.nut": "-c:v rawvideo -pix_fmt bgr24",
    "raw.y4m": "-c:v wrapped_avframe -pix_fmt yuv420p",
    "v210.mov": "-c:v v210",
    "jpeg2000.mov": "-c:v jpeg2000 -frames:v 6",
    "jpeg2000.mxf": "-c:v jpeg2000 -frames:v 6",
    "cfhd.mov": "-c:v cfhd",
    "dv.dv": "-c:v dvvideo -vf scale=720:576 -pix_fmt yuv420p -frames:v 12",
    "dv.avi": "-c:v dvvideo -vf scale=720:576 -pix_fmt yuv420p -frames:v 12",
    "dv.mov": "-c:v dvvideo -vf scale=720:576 -pix_fmt yuv420p -frames:v 12",
    # others
    "theora.ogv": "-c:v libtheora -g 12 -q:v 6",
    "theora_vfr.ogv": f"-c:v libtheora -g 12 -q:v 6 {VARIABLE}",
    "theora.mkv": "-c:v libtheora -g 12 -q:v 6",
    "gif.gif": "-c:v gif",
    "gif_vfr.gif": f"-c:v gif {VARIABLE}",
    "apng.apng": "-c:v apng -plays 1",
    "apng_named.png": "-c:v apng -f apng -plays 1",
    "apng_rgba.apng": "-c:v apng -pix_fmt rgba -plays 0",
    "cinepak.avi": "-c:v cinepak -frames:v 12",
    "cinepak.mov": "-c:v cinepak -frames:v 12",
    "msvideo1.avi": "-c:v msvideo1",
    "svq1.mov": "-c:v svq1 -g 12",
    "rv10.rm": "-c:v rv10 -g 12",
    "rv20.rm": "-c:v rv20 -g 12",
    "qtrle.mov": "-c:v qtrle -g 12",
    "rpza.mov": "-c:v rpza -g 12",
    "smc.mov": "-c:v smc -g 12 -pix_fmt pal8 -vf palettegen=stats_mode=single -frames:v 12",
    "zmbv.avi": "-c:v zmbv -g 12",
    "flashsv.flv": "-c:v flashsv -g 12",
    "flashsv2.flv": "-c:v flashsv2 -g 12",
    "snow.avi": "-c:v snow -strict -2 -g 12",
    "asv1.avi": "-c:v asv1",
    "roq.roq": "-c:v roqvideo -r 30",
    "hap.mov": "-c:v hap",
    "dirac.mkv": "-c:v vc2",
    "swf.swf": "-c:v flv -g 12",
    "zlib.avi": "-c:v zlib",
    "speedhq.mkv": "-c:v speedhq -vf scale=64:48 -pix_fmt yuv422p",
}

# libvpx hides reference pictures when it has seen the source before.
TWO_PASSES = {
    "vp9_altref.webm": "-c:v libvpx-vp9 -deadline good -cpu-used 5 -threads 1 -g 20 -auto-alt-ref 1 -lag-in-frames 16",
    "vp8_altref.webm": "-c:v libvpx -deadline good -cpu-used 5 -threads 1 -g 20 -auto-alt-ref 1 -lag-in-frames 16",
}
SPIKES = "-bsf:v setts=pts='PTS+if(eq(mod(N\\,11)\\,4)\\,3*{frame}\\,0)'"
NO_REORDERING = "-bsf:v setts=pts=DTS"
SPLIT_VP9 = "-bsf:v vp9_superframe_split"
COPIED = {
    # name: (source, options of the input, options of the output)
    "no_ctts.mp4": ("h264_b2.mp4", "", NO_REORDERING),
    "no_ctts.mkv": ("h264_b2.mp4", "", NO_REORDERING),
    "no_ctts_pyramid.mp4": ("h264_b3_pyramid.mp4", "", NO_REORDERING),
    "no_ctts_hevc.mp4": ("hevc_open.mp4", "", NO_REORDERING),
    "no_ctts_hevc.mkv": ("hevc_b.mp4", "", NO_REORDERING),
    "no_ctts_open.mkv": ("h264_open_gop.mp4", "", NO_REORDERING),
    "spikes.mp4": ("h264_no_b.mp4", "", SPIKES.format(frame=512)),
    "spikes.mkv": ("h264_no_b.mp4", "", SPIKES.format(frame=512)),
    "spikes_short.mkv": ("h264_no_b.mp4", "", SPIKES.format(frame=40)),
    "spikes_b.mkv": ("h264_b2.mp4", "", SPIKES.format(frame=40)),
    "spikes_hevc.mkv": ("hevc_no_b.mkv", "", SPIKES.format(frame=40)),
    "spikes_vp9.mkv": ("vp9.webm", "", SPIKES.format(frame=40)),
    "spikes_av1.mkv": ("av1_aom.mp4", "", SPIKES.format(frame=40)),
    "spikes_vp8.webm": ("vp8.webm", "", SPIKES.format(frame=40)),
    "swapped.mkv": (
        "h264_b2.mp4",
        "",
        "-bsf:v setts=pts='PTS+if(eq(mod(N\\,3)\\,2)\\,40\\,if(eq(mod(N\\,3)\\,0)\\,-40\\,0))'",
    ),
    "swapped_once.mp4": ("h264_b2.mp4", "", "-bsf:v setts=pts='PTS+if(eq(N\\,17)\\,512\\,if(eq(N\\,18)\\,-512\\,0))'"),
    "set_back.mkv": ("h264_b2.mp4", "", "-bsf:v setts=pts='PTS-if(gte(N\\,12)\\,6000\\,0)'"),
    "gap.mp4": (
        "h264_b2.mp4",
        "",
        "-bsf:v setts=pts='PTS+if(gte(N\\,12)\\,900000\\,0)':dts='DTS+if(gte(N\\,12)\\,900000\\,0)'",
    ),
    "gap.mkv": (
        "h264_b2.mp4",
        "",
        "-bsf:v setts=pts='PTS+if(gte(N\\,12)\\,9000\\,0)':dts='DTS+if(gte(N\\,12)\\,9000\\,0)'",
    ),
    "repeated_times.mkv": ("h264_b2.mp4", "", "-bsf:v setts=pts='floor(PTS/80)*80'"),
    "negative.mp4": ("h264_b2.mp4", "", "-bsf:v setts=pts=PTS-2560:dts=DTS-2560 -avoid_negative_ts disabled"),
    "late_start.mp4": ("h264_b2.mp4", "", "-output_ts_offset 3.5"),
    "clock_wraps.ts": ("h264_b2.mp4", "", "-output_ts_offset 95443.5"),
    "clock_wraps_mpeg2.ts": ("mpeg2.mpg", "", "-output_ts_offset 95443.5"),
    "shorter.mp4": ("h264_b2.mp4", "", "-t 0.9"),
    "vp9_altref.mp4": ("vp9_altref.webm", "", ""),
    "vp9_altref.ivf": ("vp9_altref.webm", "", ""),
    "vp9_edited.mp4": ("vp9_altref.webm", "-ss 0.4", ""),
    "vp8_altref.mkv": ("vp8_altref.webm", "", ""),
    "vp8_altref.avi": ("vp8_altref.webm", "", ""),
    "split.webm": ("vp9_altref.webm", "", SPLIT_VP9),
    "split.mp4": ("vp9_altref.webm", "", SPLIT_VP9),
    "split.ivf": ("vp9_altref.webm", "", SPLIT_VP9),
    "split.avi": ("vp9_altref.webm", "", SPLIT_VP9),
    "split_av1.mkv": ("av1_aom_lag.webm", "", "-bsf:v av1_frame_split"),
    "split_av1.mp4": ("av1_aom_lag.webm", "", "-bsf:v av1_frame_split"),
    "unpacked.avi": ("xvid_packed.avi", "", "-bsf:v mpeg4_unpack_bframes"),
    "unpacked.mp4": ("xvid_packed.avi", "", "-bsf:v mpeg4_unpack_bframes"),
    "packed_copied.mkv": ("xvid_packed.avi", "-fflags +genpts", ""),
    "packed_copied.mp4": ("xvid_packed.avi", "-fflags +genpts", ""),
    "packed_copied.nut": ("xvid_packed_long.avi", "-fflags +genpts", ""),
    "mpeg4_from_mp4.avi": ("mpeg4_b.mp4", "", ""),
    "h264_from_mp4.nut": ("h264_b3_pyramid.mp4", "", ""),
    "theora_from_ogv.mkv": ("theora_vfr.ogv", "", ""),
    **{
        f"cut_{name}": (name, "-ss 0.6", "")
        for name in (
            *("h264_b2.mp4", "h264_open_gop.mp4", "hevc_open.mp4", "h264_b.mkv", "hevc_open.mkv", "h264_open.ts"),
            *("h264_b.flv", "h264_interlaced.mov", "h264_one_group.mp4", "mpeg4_b.mp4", "xvid_packed.avi", "vp9.webm"),
            *("vp8.webm", "mpeg2.ts", "mpeg2.mkv", "av1_aom.mp4", "theora.ogv", "wmv2.wmv", "mpeg4_b.avi", "flv1.flv"),
        )
    },
    **{
        f"cut_{stem}_to.{kind}": (f"{stem}.mp4", "-ss 0.6", "")
        for stem in ("h264_b2", "h264_open_gop", "hevc_open")
        for kind in ("mkv", "ts", "avi")
    },
    **{
        f"begins_between_{source.replace('.', '_')}.{kind}": (source, "", "-ss 0.6 -copyinkf")
        for source, kind in (
            *(("h264_b2.mp4", "mp4"), ("h264_b2.mp4", "mkv"), ("h264_b2.mp4", "ts"), ("h264_open_gop.mp4", "mkv")),
            *(("hevc_open.mp4", "mp4"), ("hevc_open.mp4", "mkv"), ("hevc_open.mp4", "ts"), ("mpeg4_b.mp4", "mkv")),
            *(("mpeg4_b.avi", "avi"), ("vp8.webm", "webm"), ("vp9.webm", "webm"), ("av1_aom.mp4", "mkv")),
            *(
                ("mpeg2.ts", "ts"),
                ("mpeg2.mkv", "mkv"),
                ("flv1.flv", "flv"),
                ("wmv2.wmv", "wmv"),
                ("ffv1_groups.mkv", "mkv"),
            ),
        )
    },
}
# name: the files that are joined, as they are stored or by the demuxer `concat`
JOINED = {
    "joined.mp4": ("h264_b2.mp4", "h264_open_gop.mp4"),
    "joined.mkv": ("h264_b2.mp4", "h264_open_gop.mp4"),
    "joined_rates.mkv": ("h264_b2.mp4", "h264_no_b.mp4"),
    "joined_hevc.mp4": ("hevc_open.mp4", "hevc_open.mp4"),
    "joined_cut_hevc.mkv": ("cut_hevc_open.mp4", "cut_hevc_open.mp4"),
    "joined_cut.mkv": ("cut_h264_open_gop.mp4", "cut_h264_open_gop.mp4"),
    "joined_packed.avi": ("xvid_packed.avi", "xvid_packed.avi"),
    "joined_mpeg4.mp4": ("mpeg4_b.mp4", "mpeg4_b.mp4"),
}
APPENDED = ("h264_b.ts", "mpeg2.ts", "hevc_b.ts", "mpeg2.mpg", "h264.h264", "mpeg2.m2v")
HALVED = (*APPENDED, "h264_refresh.ts", "mjpeg.mjpeg")
NAMES = [
    *ENCODED,
    *TWO_PASSES,
    *COPIED,
    *JOINED,
    *(f"twice_{name}" for name in APPENDED),
    *(f"half_{name}" for name in HALVED),
]


def make(folder: Path) -> None:
    """All of `NAMES` in `folder`, less what this build of ffmpeg cannot encode or write."""
    source = f"-f lavfi -i {SOURCE}"
    left = iter(ENCODED.items())
    while outputs := dict(islice(left, OUTPUTS_PER_PROCESS)):
        _run(folder, source, outputs)
    for number in (1, 2):
        for name, options in TWO_PASSES.items():
            _run(folder, source, {name: f"{options} -pass {number} -passlogfile {name}"})
    by_input = defaultdict(dict)
    for name, (source, options, output) in COPIED.items():
        if (folder / source).exists():
            by_input[f"{options} -i {source}"][name] = f"-c copy {output}"
    for source, outputs in by_input.items():
        _run(folder, source, outputs)
    for name, parts in JOINED.items():
        (folder / "list.txt").write_text("".join(f"file {part}\n" for part in parts))
        _run(folder, "-f concat -safe 0 -i list.txt", {name: "-c copy"})
    (folder / "list.txt").unlink()
    for name in HALVED:
        whole = (folder / name).read_bytes()
        if name in APPENDED:
            (folder / f"twice_{name}").write_bytes(whole * 2)
        (folder / f"half_{name}").write_bytes(whole[len(whole) // 3 // 188 * 188 :])


def _run(folder: Path, source: str, outputs: dict[str, str]) -> None:
    """One process for all outputs; where that fails, one for each, and what fails then is left out."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *shlex.split(source)]
    for name, options in outputs.items():
        command += ["-map", "0:v", *shlex.split(options), name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode == 0:
        return
    for name, options in outputs.items():
        if len(outputs) > 1:
            _run(folder, source, {name: options})
        else:
            print(f"not made: {name}: {done.stderr.strip().splitlines()[-1]}")
            (folder / name).unlink(missing_ok=True)
