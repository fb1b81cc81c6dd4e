/*
 * mingw-w64's intrin.h takes in clang's vector intrinsics by this name. A driver uses none of them, and bindgen cannot
 * express one of their types (packed and aligned at once).
 */
#pragma once
