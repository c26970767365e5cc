//! The Tokenizer service.

use super::inference::encode;
use super::proto::tokenizer_server::Tokenizer;
use super::proto::{DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse};
use super::state::ServerState;
use super::violations::Violations;
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) struct TokenizerService(pub Arc<ServerState>);

#[tonic::async_trait]
impl Tokenizer for TokenizerService {
    async fn tokenize(&self, request: Request<TokenizeRequest>) -> Result<Response<TokenizeResponse>, Status> {
        let tokenizer = &self.0.loaded()?.tokenizer;
        let request = request.into_inner();
        let add_special = request.add_special.unwrap_or(true);
        let parse_special = request.parse_special.unwrap_or(false);
        let ids = encode(&self.0, tokenizer, request.text, add_special, parse_special).await?;
        let pieces = ids.iter().map(|&id| tokenizer.piece(id).to_vec()).collect();
        Ok(Response::new(TokenizeResponse { ids, pieces }))
    }

    async fn detokenize(&self, request: Request<DetokenizeRequest>) -> Result<Response<DetokenizeResponse>, Status> {
        let tokenizer = &self.0.loaded()?.tokenizer;
        let ids = request.into_inner().ids;
        let mut violations = Violations::default();
        violations.token_ids("ids", &ids, tokenizer.vocab_size());
        violations.check()?;
        let text = String::from_utf8_lossy(&tokenizer.decode(&ids)).into_owned();
        Ok(Response::new(DetokenizeResponse { text }))
    }
}
