// Convolutions of 3x3 and 5x5 with stride 1 by Winograd's minimal filtering F(2x2, 3x3).
//
// A tile of 2x2 results comes from a tile d of 4x4 pixels:  y = A^T [sum over c of (G g G^T) (B^T d B)] A, where the
// product in brackets is taken number by number: 16 products instead of 36 for each pair of channels. With the tiles of
// an image as rows, it is one product of matrices for each of the 16 places in a tile. The input gradient is such a
// convolution, too, and the kernel gradient is g' = G^T [sum over tiles of (B^T d B) (A y' A^T)] G.
//
// A kernel of 5x5 is the sum of four of 3x3, which begin 3 taps apart and lack the taps outside it; each of them has
// tiles of its own. Without its third row of taps, G g G^T is 0 in its last row, too: 49 products instead of 100.
//
// The constants are 0, 1 and 1/2, so it is as exact as the sum of products itself: beside float64, the root mean square
// error was 0.6 to 1.4 times oneDNN's. F(4x4, 3x3) would need half the products, but its constants lose a digit or
// more. A pixel that is infinite or NaN makes all four results of a tile NaN, also those whose windows it is not in.
//
// Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2016), section 4.1.
#pragma once

#include "convolution.h"

namespace jaxcnn {

// Whether `winograd` computes this convolution, which is 2-D, in float32, of one group and not dilated, and faster than
// oneDNN does.
bool suits_winograd(const Convolution& convolution);

// Computes the convolution. Use it only during a turn.
void winograd(const Convolution& convolution, const Arrays& arrays);

}  // namespace jaxcnn
