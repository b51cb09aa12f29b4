#pragma once
#define TUNED 0x5eed0080
