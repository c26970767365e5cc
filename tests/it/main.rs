mod tidy;
mod tokenizers;
