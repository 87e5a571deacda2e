// Reading image files, and the preparation that the training images went through.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hwautoml {

// Rows first: height x width x channels bytes; with 2 or 4 channels, the last one is alpha.
// Grey pictures of more than 8 bits have one value per pixel in `deep` instead.
struct Image {
  int width = 0, height = 0, channels = 0;
  std::vector<uint8_t> pixels;
  std::vector<float> deep;

  Image() = default;
  Image(int width, int height, int channels)
      : width(width), height(height), channels(channels), pixels(size_t(width) * height * channels) {}
};

// How pictures become 8-bit, opaque squares: manifest.json's input.levels, input.background and input.fit.
struct PixelRule {
  bool has_levels = false;
  double low = 0, high = 0;
  int background = 255;
  std::string fit = "crop";  // or "pad", "stretch"
};

// A binary PPM, PGM or PFM file (P6, P5, Pf), of 16 bits or floats too; PNG, JPEG and more where built with stb_image.
// Throws std::runtime_error naming the file.
Image read_image(const std::string& path);

// Bytes without a header: `width` x `height` x `channels`.
Image read_raw(const std::string& path, int width, int height, int channels);

// 8-bit and square by `rule`, `channels` channels, `image_size` pixels wide, then `resolution` pixels wide.
// Throws std::runtime_error for a deep picture where the rule has no levels.
Image prepare(const Image& image, const PixelRule& rule, int image_size, int resolution, int channels);

}  // namespace hwautoml
