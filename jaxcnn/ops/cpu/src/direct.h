// Convolutions of few channels, as sums of products.
//
// In an image (N, height, width, C), the part of a window that lies in one row is G C numbers side by side, without
// gaps; in the next window it begins S C numbers later. So a row of results is a sum over the F rows of the window of
// products of matrices: (windows, G C), which lies in the image and is not copied, and (G C, K), a row of the kernel.
// The kernel gradient is the same with the first matrix transposed, and the input gradient is the convolution of y with
// the kernel turned.
//
// oneDNN's code wants 16 channels at a time: LeNet-5's first layer, 1 channel to 6, took it 3 times as long.
#pragma once

#include "convolution.h"

namespace jaxcnn {

// Whether `direct` computes this convolution, which is 2-D, in float32, of one group and not dilated, and faster than
// oneDNN does.
bool suits_direct(const Convolution& convolution);

// Computes the convolution. Use it only during a turn.
void direct(const Convolution& convolution, const Arrays& arrays);

}  // namespace jaxcnn
