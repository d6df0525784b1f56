"""The losses of teaching and distilling: pure functions of tensors, each with its plain reference in the tests.

Embeddings are unit vectors throughout, so that a matrix product is a matrix of cosine similarities. ``scale`` is the
inverse of a softmax temperature. All results are scalars in nats, means over the batch, unless said otherwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against a distribution per row.

    Args:
        logits: (B, C) float32.
        target: (B, C) float32, rows sum to 1.

    Returns:
        Scalar, nats, mean over rows.
    """
    return -(target * torch.log_softmax(logits, dim=-1)).sum(-1).mean()


def info_nce(image: Tensor, text: Tensor, concepts: Tensor, *, scale: Tensor | float) -> Tensor:
    """Contrastive loss of image and text, where samples of one concept are no negatives of each other.

    The target of a row is uniform over all columns of its concept; with every concept once in the batch this is the
    loss of CLIP.

    Args:
        image, text: (B, D) float32 unit vectors; row i of both belongs together.
        concepts: (B,) int64, equal where two samples mean the same.
        scale: inverse temperature, > 0.

    Returns:
        Scalar, nats, mean over both directions.

    Source: Radford et al. 2021, "CLIP", figure 3; several positives as in Khosla et al. 2020, "Supervised
    contrastive learning".
    """
    logits = scale * image @ text.T
    same = (concepts[:, None] == concepts[None, :]).to(logits.dtype)
    target = same / same.sum(-1, keepdim=True)  # symmetric: (B, B) and its rows sum to 1
    return (soft_cross_entropy(logits, target) + soft_cross_entropy(logits.T, target)) / 2


def affinity_mimicking(
    student_image: Tensor, student_text: Tensor, teacher_image: Tensor, teacher_text: Tensor, *, scale: float
) -> Tensor:
    """Cross-entropy between the in-batch image-text affinities of student and teacher.

    Student and teacher may differ in width.

    Args:
        student_image, student_text: (B, D) float32 unit vectors.
        teacher_image, teacher_text: (B, E) float32 unit vectors, detached.
        scale: inverse softmax temperature of both, > 0.

    Returns:
        Scalar, nats, mean over both directions.

    Source: Wu et al. 2023, "TinyCLIP", eq. 3.
    """
    student = scale * student_image @ student_text.T
    teacher = scale * teacher_image @ teacher_text.T
    forth = soft_cross_entropy(student, torch.softmax(teacher, dim=-1))
    back = soft_cross_entropy(student.T, torch.softmax(teacher.T, dim=-1))
    return (forth + back) / 2


def interactive_contrastive(
    student_image: Tensor,
    student_text: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    concepts: Tensor,
    *,
    scale: float,
) -> Tensor:
    """InfoNCE of the student's images against the teacher's texts, and of its texts against the teacher's images.

    Args:
        student_image, student_text: (B, D) float32 unit vectors.
        teacher_image, teacher_text: (B, D) float32 unit vectors, detached, of the same width.
        concepts: (B,) int64, equal where two samples mean the same.
        scale: inverse temperature, > 0.

    Returns:
        Scalar, nats, mean of the two.

    Source: Yang et al. 2024, "CLIP-KD", interactive contrastive learning.
    """
    image_side = info_nce(student_image, teacher_text, concepts, scale=scale)
    text_side = info_nce(teacher_image, student_text, concepts, scale=scale)
    return (image_side + text_side) / 2


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return one minus the cosine of student and teacher features.

    Equals half the squared distance of the unit vectors, that is D/2 times their mean squared error.

    Args:
        student, teacher: (B, D) float32, of any length; the teacher's detached.

    Returns:
        Scalar in [0, 2], mean over rows.
    """
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()


def classifier_kd(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened class distributions, times the squared temperature.

    The factor keeps the gradient's size independent of the temperature.

    Args:
        student, teacher: (B, C) float32 logits; the teacher's detached.
        temperature: > 0.

    Returns:
        Scalar, nats times temperature squared, mean over rows.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network".
    """
    student_log = torch.log_softmax(student / temperature, dim=-1)
    teacher_log = torch.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(student_log, teacher_log, log_target=True, reduction="batchmean")


def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return mean squared difference between the samples' cosine similarities in student and in teacher.

    Student and teacher may differ in width and in everything else: what is compared is how alike samples are.

    Args:
        student, teacher: (B, D) and (B, E) float32; the teacher's detached.

    Returns:
        Scalar in [0, 4].

    Source: Tung and Mori 2019, "Similarity-preserving knowledge distillation"; of a modality's own features, as the
    Gram loss of Wei et al. 2023, "MMANet".
    """
    a, b = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    return F.mse_loss(a @ a.T, b @ b.T)


def token_gram_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the same between the tokens of each sample, those that are padding aside.

    Args:
        student, teacher: (B, N, D) and (B, N, E) float32 of the same tokens; the teacher's detached, and all zero where
            a token is padding.

    Returns:
        Scalar in [0, 4], mean over samples of the mean over each one's pairs of tokens.
    """
    a, b = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    there = (teacher != 0).any(2).to(a.dtype)
    pairs = there[:, :, None] * there[:, None, :]
    error = (a @ a.transpose(1, 2) - b @ b.transpose(1, 2)).square() * pairs
    return (error.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)).mean()


def gram_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``token_gram_distance`` where both have equally many tokens, else ``similarity_distance`` of what is pooled.

    Args:
        student, teacher: (B, D) or (B, N, D) float32, each of any width; the teacher's detached. Tokens that are all
            zero are padding.

    Returns:
        Scalar in [0, 4].
    """
    if student.ndim == 3 and teacher.ndim == 3 and student.shape[1] == teacher.shape[1]:
        return token_gram_distance(student, teacher)
    return similarity_distance(pooled(student), pooled(teacher))  # of which only the direction counts


def pooled(value: Tensor, *, padded: bool = False) -> Tensor:
    """Return one vector per sample, the mean over its tokens where it has them.

    Args:
        value: (B, W), or (B, N, W) tokens.
        padded: tokens that are all zero are padding, which doesn't count.

    Returns:
        (B, W).
    """
    if value.ndim != 3:
        return value
    if not padded:
        return value.mean(1)
    there = (value != 0).any(2, keepdim=True).sum(1)
    return value.sum(1) / there.clamp(min=1)


def unimodal_kd(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """``classifier_kd`` of one modality's own decision, each sample weighted by how sure the teacher is of it.

    The weight is one minus the teacher's entropy over the largest there is, so a modality that says nothing about a
    sample teaches nothing there.

    Args:
        student, teacher: (B, C) float32 logits; the teacher's detached.
        temperature: > 0.

    Returns:
        Scalar, nats times temperature squared, mean over rows.

    Source: Wei et al. 2023, "MMANet" (entropy-weighted unimodal heads).
    """
    certain = torch.softmax(teacher, dim=-1)
    entropy = -(certain * torch.log(certain + 1e-9)).sum(-1)
    weight = 1 - entropy / math.log(max(2, teacher.shape[-1]))
    student_log = torch.log_softmax(student / temperature, dim=-1)
    teacher_log = torch.log_softmax(teacher / temperature, dim=-1)
    divergence = F.kl_div(student_log, teacher_log, log_target=True, reduction="none").sum(-1)
    return temperature**2 * (weight * divergence).mean()


def multi_label_kd(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Binary cross-entropy of each class against the teacher's softened probability, times the squared temperature.

    Args:
        student, teacher: (B, C) float32 logits; the teacher's detached.
        temperature: > 0.

    Returns:
        Scalar, nats times temperature squared, mean over rows and classes.
    """
    target = torch.sigmoid(teacher / temperature)
    return temperature**2 * F.binary_cross_entropy_with_logits(student / temperature, target)


def angular_margin(embedding: Tensor, prototypes: Tensor, identity: Tensor, *, margin: float, scale: float) -> Tensor:
    """Cross-entropy over identities in which the angle to one's own prototype is made wider by a margin.

    Args:
        embedding: (B, D) float32 unit vectors.
        prototypes: (I, D) float32, of any length.
        identity: (B,) int64 in 0..I-1.
        margin: radians, at least 0.
        scale: inverse temperature, > 0.

    Returns:
        Scalar, nats, mean over rows.

    Source: Deng et al. 2019, "ArcFace", eq. 3.
    """
    cosine = (embedding @ F.normalize(prototypes, dim=-1).T).clamp(-1 + 1e-6, 1 - 1e-6)
    own = torch.cos(torch.acos(cosine.gather(1, identity[:, None])) + margin)
    return F.cross_entropy(scale * cosine.scatter(1, identity[:, None], own), identity)
