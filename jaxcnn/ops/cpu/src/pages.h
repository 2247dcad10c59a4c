// The memory that XLA takes from the system: huge pages, and what compiling leaves behind.
#pragma once

#include <cstddef>

namespace jaxcnn {

// Whether `use_huge_pages` does anything; at first it does.
void set_huge_pages(bool wanted);

// Asks the system for huge pages (2 MiB) behind the whole mapping in which the array lies. Call it before the array is
// written, and only during a turn.
//
// XLA takes all intermediate arrays of a program from the system in one piece, and gives them back at the end of each
// call. The system clears a page when it is first written: with pages of 4 KiB, that is a fifth of a training step.
// The advice is lost with the mapping, so it is repeated for each array; that takes a microsecond.
void use_huge_pages(const void* array, std::size_t bytes);

// Gives memory that was freed, but kept by the C library, back to the system. Call it before a new primitive is made,
// only during a turn: it does something if none was made for a second, since then a program runs for the first time.
//
// XLA compiles on several threads, each with an arena of memory of its own. What compiling has used stays there,
// hundreds of megabytes for a large network, beside what the program needs.
void give_back_memory();

}  // namespace jaxcnn
