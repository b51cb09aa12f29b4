#pragma once
#define DEEP 5
