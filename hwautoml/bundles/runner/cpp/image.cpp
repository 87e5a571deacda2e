// The arithmetic of resizing is Pillow's, to the bit (Image.resize with BILINEAR, a box and reducing_gap = 2), because
// that is what prepared the training images, and what run.py does.
#include "image.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>

#ifdef HWAUTOML_WITH_STB
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#include <stb_image.h>
#endif

namespace hwautoml {
namespace {

constexpr int kPrecisionBits = 32 - 8 - 2;
constexpr size_t kMaxPixels = 178956970;  // Pillow's limit against decompression bombs

struct Box {
  float left, top, right, bottom;
};

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

// A number of a PNM header: white space and comments come before it, one white space after it.
int pnm_number(const std::string& data, size_t& at, const std::string& path) {
  while (at < data.size() && (std::isspace(uint8_t(data[at])) || data[at] == '#')) {
    if (data[at] == '#') {
      while (at < data.size() && data[at] != '\n') ++at;
    } else {
      ++at;
    }
  }
  int64_t number = 0;
  size_t begin = at;
  while (at < data.size() && std::isdigit(uint8_t(data[at])) && number < 1000000) number = 10 * number + data[at++] - '0';
  if (at == begin || number == 0 || number >= 1000000) throw std::runtime_error(path + " has a damaged header");
  return int(number);
}

// Rounded half to even, as Python does: to 8 bits, or to 16 for deep pictures, from what the header calls the largest.
Image read_pnm(const std::string& data, const std::string& path) {
  size_t at = 2;
  int width = pnm_number(data, at, path), height = pnm_number(data, at, path), largest = pnm_number(data, at, path);
  if (largest > 65535) throw std::runtime_error(path + " has a largest value of " + std::to_string(largest));
  if (size_t(width) * height > kMaxPixels) throw std::runtime_error(path + " is far too large");
  int channels = data[1] == '6' ? 3 : 1, bytes = largest > 255 ? 2 : 1;
  size_t number = size_t(width) * height * channels;
  if (++at > data.size() || data.size() - at < number * bytes) throw std::runtime_error(path + " is truncated");
  bool is_deep = bytes == 2 && channels == 1;
  Image image(width, height, channels);
  if (is_deep) image.deep.resize(number);
  double target = is_deep ? 65535 : 255;
  for (size_t i = 0; i < number; ++i) {
    const char* p = &data[at + i * bytes];
    int value = bytes == 2 ? uint8_t(p[0]) << 8 | uint8_t(p[1]) : uint8_t(p[0]);
    double scaled = largest == target ? value : std::min(target, std::nearbyint(double(value) / largest * target));
    if (is_deep) {
      image.deep[i] = float(scaled);
    } else {
      image.pixels[i] = uint8_t(scaled);
    }
  }
  return image;
}

// Floats, the lowest row first; a negative scale says that they are little-endian.
Image read_pfm(const std::string& data, const std::string& path) {
  size_t at = 2;
  int width = pnm_number(data, at, path), height = pnm_number(data, at, path);
  size_t end = data.find('\n', at + 1);
  if (end == std::string::npos) throw std::runtime_error(path + " has a damaged header");
  bool little = data.substr(at, end - at).find('-') != std::string::npos;
  size_t number = size_t(width) * height;
  if (number > kMaxPixels) throw std::runtime_error(path + " is far too large");
  if (data.size() - end - 1 < 4 * number) throw std::runtime_error(path + " is truncated");
  Image image(width, height, 1);
  image.deep.resize(number);
  for (size_t i = 0; i < number; ++i) {
    uint32_t bits = 0;
    for (int k = 0; k < 4; ++k) bits |= uint32_t(uint8_t(data[end + 1 + 4 * i + k])) << 8 * (little ? k : 3 - k);
    size_t row = height - 1 - i / width;
    std::memcpy(&image.deep[row * width + i % width], &bits, 4);
  }
  return image;
}

// Linearly from the rule's levels to 0..255, rounded half up; what is no number becomes 0.
Image scaled(const Image& image, const PixelRule& rule) {
  if (!rule.has_levels)
    throw std::runtime_error("it has more than 8 bits, and the training images had not: save it as an 8-bit image");
  Image result(image.width, image.height, 1);
  double scale = 255.0 / (rule.high - rule.low);
  for (size_t i = 0; i < image.deep.size(); ++i) {
    double level = std::floor((double(image.deep[i]) - rule.low) * scale + 0.5);
    result.pixels[i] = level > 0 ? uint8_t(std::min(level, 255.0)) : 0;
  }
  return result;
}

// On the rule's background, as Pillow's Image.paste with a mask.
Image composed(const Image& image, const PixelRule& rule) {
  Image result(image.width, image.height, image.channels - 1);
  for (size_t i = 0, n = size_t(image.width) * image.height; i < n; ++i) {
    const uint8_t* from = &image.pixels[i * image.channels];
    uint32_t alpha = from[result.channels];
    for (int c = 0; c < result.channels; ++c) {
      uint32_t sum = rule.background * (255 - alpha) + from[c] * alpha + 128;
      result.pixels[i * result.channels + c] = uint8_t(((sum >> 8) + sum) >> 8);
    }
  }
  return result;
}

Image eight_bits(const Image& image, const PixelRule& rule) {
  if (!image.deep.empty()) return scaled(image, rule);
  return image.channels % 2 == 0 ? composed(image, rule) : image;
}

Image with_channels(const Image& image, int channels) {
  if (image.channels == channels) return image;
  Image result(image.width, image.height, channels);
  for (size_t i = 0, n = size_t(image.width) * image.height; i < n; ++i) {
    if (channels == 3) {
      std::fill_n(&result.pixels[3 * i], 3, image.pixels[i]);
    } else {
      const uint8_t* p = &image.pixels[3 * i];
      result.pixels[i] = uint8_t((p[0] * 19595 + p[1] * 38470 + p[2] * 7471 + 0x8000) >> 16);
    }
  }
  return result;
}

// Means of blocks of `factor_x` by `factor_y` pixels between the corners; blocks at the far ends may be smaller.
Image reduced(const Image& image, int factor_x, int factor_y, int left, int top, int right, int bottom) {
  Image result((right - left + factor_x - 1) / factor_x, (bottom - top + factor_y - 1) / factor_y, image.channels);
  for (int y = 0; y < result.height; ++y) {
    int y0 = top + y * factor_y, y1 = std::min(y0 + factor_y, bottom);
    for (int x = 0; x < result.width; ++x) {
      int x0 = left + x * factor_x, x1 = std::min(x0 + factor_x, right);
      uint32_t count = uint32_t(x1 - x0) * (y1 - y0);
      uint32_t multiplier = uint32_t(float(1 << 30) * 4.0f / float(256 * count));
      for (int c = 0; c < image.channels; ++c) {
        uint32_t sum = count / 2;
        for (int v = y0; v < y1; ++v)
          for (int u = x0; u < x1; ++u) sum += image.pixels[(size_t(v) * image.width + u) * image.channels + c];
        result.pixels[(size_t(y) * result.width + x) * image.channels + c] = uint8_t((sum * multiplier) >> 24);
      }
    }
  }
  return result;
}

// Which source pixels each target pixel is a weighted mean of.
struct Weights {
  std::vector<int> first, number;
  std::vector<std::vector<int>> fixed_point;
};

Weights weights_of(float from, float to, int source_size, int target_size) {
  double scale = double(to - from) / target_size, filter_scale = std::max(scale, 1.0);
  Weights result;
  for (int i = 0; i < target_size; ++i) {
    double center = from + (i + 0.5) * scale;
    int begin = std::max(0, int(center - filter_scale + 0.5));
    int end = std::min(source_size, int(center + filter_scale + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (int k = begin; k < end; ++k) {
      double distance = std::abs((k - center + 0.5) * (1.0 / filter_scale));
      weights.push_back(distance < 1.0 ? 1.0 - distance : 0.0);
      sum += weights.back();
    }
    std::vector<int> fixed;
    for (double w : weights) fixed.push_back(int(0.5 + (sum != 0 ? w * (1.0 / sum) : w) * (1 << kPrecisionBits)));
    result.first.push_back(begin);
    result.number.push_back(int(fixed.size()));
    result.fixed_point.push_back(std::move(fixed));
  }
  return result;
}

// Along the rows where `horizontal`, else along the columns.
Image resample(const Image& image, const Weights& weights, bool horizontal) {
  int target = int(weights.first.size());
  Image result(horizontal ? target : image.width, horizontal ? image.height : target, image.channels);
  size_t step = size_t(image.channels) * (horizontal ? 1 : image.width);
  for (int y = 0; y < result.height; ++y) {
    for (int x = 0; x < result.width; ++x) {
      int i = horizontal ? x : y;
      size_t start = horizontal ? (size_t(y) * image.width + weights.first[i]) * image.channels
                                : (size_t(weights.first[i]) * image.width + x) * image.channels;
      for (int c = 0; c < image.channels; ++c) {
        int sum = 1 << (kPrecisionBits - 1);
        for (int k = 0; k < weights.number[i]; ++k)
          sum += image.pixels[start + k * step + c] * weights.fixed_point[i][k];
        result.pixels[(size_t(y) * result.width + x) * image.channels + c] =
            uint8_t(std::clamp(sum >> kPrecisionBits, 0, 255));
      }
    }
  }
  return result;
}

// Pillow 13 takes the rows first where that is less work; older ones always the columns, a difference of one level at
// most, for tall images only.
bool rows_first(const Image& image, int height) {
  return image.height > height && image.height + height > 2 * image.width;
}

Image resized(const Image& image, int width, int height, Box box) {
  bool columns = width != image.width || box.left != 0 || box.right != float(width);
  bool rows = height != image.height || box.top != 0 || box.bottom != float(height);
  Weights across = weights_of(box.left, box.right, image.width, width);
  Weights down = weights_of(box.top, box.bottom, image.height, height);
  if (columns && rows && rows_first(image, height)) return resample(resample(image, down, false), across, true);
  Image result = columns ? resample(image, across, true) : image;
  return rows ? resample(result, down, false) : result;
}

// As Pillow with reducing_gap = 2: large images are first averaged in whole blocks. The box has whole numbers.
Image resized_in_two_steps(const Image& image, int width, int height, Box box) {
  double box_width = box.right - box.left, box_height = box.bottom - box.top;
  int factor_x = std::max(1, int(box_width / width / 2.0)), factor_y = std::max(1, int(box_height / height / 2.0));
  if (factor_x == 1 && factor_y == 1) return resized(image, width, height, box);
  double support_x = 0.5 * box_width / width, support_y = 0.5 * box_height / height;
  int left = std::max(0, int(box.left - support_x)), top = std::max(0, int(box.top - support_y));
  int right = std::min(image.width, int(std::ceil(box.right + support_x)));
  int bottom = std::min(image.height, int(std::ceil(box.bottom + support_y)));
  Image small = reduced(image, factor_x, factor_y, left, top, right, bottom);
  return resized(small, width, height,
                 Box{float((double(box.left) - left) / factor_x), float((double(box.top) - top) / factor_y),
                     float((double(box.right) - left) / factor_x), float((double(box.bottom) - top) / factor_y)});
}

// All of the image between stripes of mid-grey.
Image padded_square(const Image& image, int size) {
  int longest = std::max(image.width, image.height);
  int width = std::max(1, int(std::nearbyint(double(size) * image.width / longest)));
  int height = std::max(1, int(std::nearbyint(double(size) * image.height / longest)));
  Box all{0, 0, float(image.width), float(image.height)};
  Image whole = resized_in_two_steps(image, width, height, all);
  Image canvas(size, size, image.channels);
  std::fill(canvas.pixels.begin(), canvas.pixels.end(), uint8_t(128));
  size_t row_bytes = size_t(width) * image.channels;
  for (int y = 0; y < height; ++y)
    std::copy_n(&whole.pixels[y * row_bytes], row_bytes,
                &canvas.pixels[(size_t(y + (size - height) / 2) * size + (size - width) / 2) * image.channels]);
  return canvas;
}

Image squared(const Image& image, int size, const std::string& fit) {
  if (image.width == size && image.height == size) return image;
  if (fit == "pad") return padded_square(image, size);
  if (fit == "stretch")
    return resized_in_two_steps(image, size, size, Box{0, 0, float(image.width), float(image.height)});
  int side = std::min(image.width, image.height), left = (image.width - side) / 2, top = (image.height - side) / 2;
  return resized_in_two_steps(image, size, size,
                              Box{float(left), float(top), float(left + side), float(top + side)});
}

#ifdef HWAUTOML_WITH_STB
// EXIF's orientation in a JPEG, 1 to 8 (1: upright, also where it says nothing or is damaged), as Pillow reads it.
int exif_orientation(const std::string& data) {
  auto byte = [&](size_t at) { return at < data.size() ? uint32_t(uint8_t(data[at])) : 0u; };
  if (byte(0) != 0xFF || byte(1) != 0xD8) return 1;
  for (size_t at = 2; byte(at) == 0xFF && byte(at + 1) != 0xDA && at + 4 <= data.size();) {
    size_t length = byte(at + 2) << 8 | byte(at + 3);
    if (byte(at + 1) != 0xE1 || data.compare(at + 4, 6, std::string("Exif\0\0", 6)) != 0) {
      at += 2 + std::max<size_t>(length, 2);
      continue;
    }
    size_t tiff = at + 10;
    bool little = byte(tiff) == 'I';
    auto number = [&](size_t from, int bytes) {
      uint32_t result = 0;
      for (int i = 0; i < bytes; ++i) result |= byte(from + i) << 8 * (little ? i : bytes - 1 - i);
      return result;
    };
    size_t directory = tiff + number(tiff + 4, 4);
    for (uint32_t i = 0, n = number(directory, 2); i < n; ++i) {
      size_t entry = directory + 2 + 12 * size_t(i);
      if (number(entry, 2) == 0x0112) {
        uint32_t found = number(entry + 8, 2);
        return found >= 1 && found <= 8 ? int(found) : 1;
      }
    }
    return 1;
  }
  return 1;
}

Image upright(const Image& image, int orientation) {
  if (orientation == 1) return image;
  bool turned = orientation >= 5;
  Image result(turned ? image.height : image.width, turned ? image.width : image.height, image.channels);
  for (int y = 0; y < result.height; ++y) {
    for (int x = 0; x < result.width; ++x) {
      // The stored pixel: rows and columns change places for 5 to 8, then either may run backwards.
      int u = turned ? y : x, v = turned ? x : y;
      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) u = image.width - 1 - u;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) v = image.height - 1 - v;
      const uint8_t* from = &image.pixels[(size_t(v) * image.width + u) * image.channels];
      std::copy_n(from, image.channels, &result.pixels[(size_t(y) * result.width + x) * image.channels]);
    }
  }
  return result;
}
#endif

}  // namespace

Image read_image(const std::string& path) {
  std::string data = read_file(path);
  if (data.size() > 2 && data[0] == 'P' && (data[1] == '5' || data[1] == '6')) return read_pnm(data, path);
  if (data.size() > 2 && data[0] == 'P' && data[1] == 'f') return read_pfm(data, path);
#ifdef HWAUTOML_WITH_STB
  int width, height, channels;
  auto bytes = reinterpret_cast<const stbi_uc*>(data.data());
  if (!stbi_info_from_memory(bytes, int(data.size()), &width, &height, &channels) ||
      size_t(width) * height > kMaxPixels)
    throw std::runtime_error(path + " is not an image in a known format, or far too large");
  if (channels == 1 && stbi_is_16_bit_from_memory(bytes, int(data.size()))) {
    stbi_us* deep = stbi_load_16_from_memory(bytes, int(data.size()), &width, &height, &channels, 1);
    if (deep == nullptr) throw std::runtime_error("cannot read " + path + ": " + stbi_failure_reason());
    Image image(width, height, 1);
    image.deep.assign(deep, deep + image.pixels.size());
    stbi_image_free(deep);
    return image;
  }
  stbi_uc* decoded = stbi_load_from_memory(bytes, int(data.size()), &width, &height, &channels, 0);
  if (decoded == nullptr) throw std::runtime_error("cannot read " + path + ": " + stbi_failure_reason());
  Image image(width, height, channels);
  std::copy_n(decoded, image.pixels.size(), image.pixels.begin());
  stbi_image_free(decoded);
  return upright(image, exif_orientation(data));
#else
  throw std::runtime_error(path + " is no binary PPM, PGM or PFM file (others need a build with stb_image, or --raw)");
#endif
}

Image read_raw(const std::string& path, int width, int height, int channels) {
  std::string data = read_file(path);
  Image image(width, height, channels);
  if (data.size() != image.pixels.size())
    throw std::runtime_error(path + " has " + std::to_string(data.size()) + " bytes, expected " +
                             std::to_string(image.pixels.size()));
  std::copy(data.begin(), data.end(), image.pixels.begin());
  return image;
}

Image prepare(const Image& image, const PixelRule& rule, int image_size, int resolution, int channels) {
  Image square = squared(with_channels(eight_bits(image, rule), channels), image_size, rule.fit);
  if (resolution == image_size) return square;
  return resized(square, resolution, resolution, Box{0, 0, float(image_size), float(image_size)});
}

}  // namespace hwautoml
