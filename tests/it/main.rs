mod golden;
mod tidy;
mod tokenizers;
