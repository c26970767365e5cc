//! The Tokenizer service.

use super::inference::text_work;
use super::proto::tokenizer_server::Tokenizer;
use super::proto::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};
use super::state::ServerState;
use super::{status, violations::Violations};
use crate::types::TokenId;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// What a token of an answer weighs beside the bytes of its piece.
const PIECE_BYTES: usize = size_of::<TokenId>() + size_of::<Vec<u8>>();

pub(super) struct TokenizerService(pub Arc<ServerState>);

#[tonic::async_trait]
impl Tokenizer for TokenizerService {
    async fn tokenize(&self, request: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        let tokenizer = Arc::clone(&self.0.loaded()?.tokenizer);
        let request = request.into_inner();
        let add_special = request.add_special.unwrap_or(true);
        let parse_special = request.parse_special.unwrap_or(false);
        let bytes = request.text.len();
        let max_bytes = self.0.limits.max_response_bytes;
        let work = move || {
            let ids = tokenizer.encode(&request.text, add_special, parse_special)?;
            // A byte of text can become a token, and a piece takes far more than its bytes.
            let bytes: usize = ids.iter().map(|&id| PIECE_BYTES + tokenizer.piece(id).len()).sum();
            let pieces = || ids.iter().map(|&id| tokenizer.piece(id).to_vec()).collect();
            let pieces = (bytes <= max_bytes).then(pieces);
            Ok(pieces.map(|pieces| TokenizeResponse { ids, pieces }))
        };
        let answer = text_work(&self.0, bytes, work).await?.map_err(|error| status::encode_failed(&error))?;
        Ok(Response::new(answer.ok_or_else(|| status::response_too_large(max_bytes))?))
    }

    async fn detokenize(&self, request: Request<DetokenizeRequest>) -> Result<Response<DetokenizeResponse>, Status> {
        let tokenizer = Arc::clone(&self.0.loaded()?.tokenizer);
        let ids = request.into_inner().ids;
        let mut violations = Violations::default();
        violations.token_ids("ids", &ids, tokenizer.vocab_size());
        violations.check()?;
        let id_bytes = size_of_val(ids.as_slice());
        // A token can stand for far more bytes than it takes in the message.
        let max_bytes = self.0.limits.max_response_bytes;
        let work = move || {
            let bytes: usize = ids.iter().map(|&id| tokenizer.token_bytes(id).len()).sum();
            (bytes <= max_bytes).then(|| String::from_utf8_lossy(&tokenizer.decode(&ids)).into_owned())
        };
        let text = text_work(&self.0, id_bytes, work).await?;
        let text = text.ok_or_else(|| status::response_too_large(max_bytes))?;
        Ok(Response::new(DetokenizeResponse { text }))
    }
}
