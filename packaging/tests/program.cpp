// A program outside the tree, in C++. usage: program [MODEL]
#include <blaze.hpp>
#include <cstdio>

int main(int argc, char **argv) {
    blaze::engine engine = blaze::engine::create();
    if (argc > 1) {
        const std::string path = argv[1];
        blaze::model model = engine.load("{\"name\": \"m\", \"path\": \"" + path + "\"}");
        const float row[4] = {1, 2, 3, 4};
        blaze::event answer = model.infer(blaze::tensor(row, {1, 4}));
        if (answer.values<float>(0).empty()) return 1;
    }
    std::puts("ok");
}
