// 8-bit images: reading files, and the preparation that the training images went through.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hwautoml {

// Rows first: height x width x channels bytes.
struct Image {
  int width = 0, height = 0, channels = 0;
  std::vector<uint8_t> pixels;

  Image() = default;
  Image(int width, int height, int channels)
      : width(width), height(height), channels(channels), pixels(size_t(width) * height * channels) {}
};

// A binary PPM or PGM file (P6, P5); PNG, JPEG and more where built with stb_image.
// Throws std::runtime_error naming the file.
Image read_image(const std::string& path);

// Bytes without a header: `width` x `height` x `channels`.
Image read_raw(const std::string& path, int width, int height, int channels);

// Centre square, `channels` channels, `image_size` pixels wide, then `resolution` pixels wide.
Image prepare(const Image& image, int image_size, int resolution, int channels);

}  // namespace hwautoml
