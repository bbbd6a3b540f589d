"""The words of the value-of-vision plots: language -> key -> text."""

from __future__ import annotations

LABELS = {
    "en": {
        "learned": "learned", "random_matched": "random, matched", "string_lookup": "string lookup",
        "threshold": "uncertainty threshold", "cascade": "cascade", "pruning": "pruned tokens",
        "always_full": "always FULL", "always_coarse": "always COARSE", "no_vision": "no vision", "oracle": "oracle",
        "cost": "cost (a FULL look is 1)", "tokens_cost": "cost (vision tokens)", "accuracy": "accuracy, %",
        "share": "share of questions, %", "kept": "vision tokens left", "no": "NO", "coarse": "COARSE", "full": "FULL",
        "stride": "stride", "topk_norm": "top-k norm", "random": "random", "downsample": "smaller picture",
        "pool": "averaged neighbours", "lightvla": "LightVLA", "none": "none is right",
        "cheapest": "cheapest right action, % of questions",
        "wrong": "wrong answers, %", "wilson": "95 % Wilson intervals", "entropy": "entropy", "margin": "margin",
        "fallback": "with fallback", "over_questions": "95 % bootstrap over questions",
        "over_seeds": "95 % over questions and seeds", "deviation": "mean and deviation over seeds",
        "more": "more lines in the table: {}",
        "fair_oracle": "oracle, less lucky guesses", "unseen": "the model was not trained for fewer tokens",
        "global": "over the whole set", "entropy_buckets": "by entropy", "best": "the best",
        "best_other": "the best other one",
        "chosen": "learned: λ chosen on validation", "errors": "Wrong answers among those given at each action",
        "oracle_title": "Cheapest right action (oracle)",
    },
    "zh": {
        "learned": "学习策略", "random_matched": "随机（比例匹配）", "string_lookup": "问句查表",
        "threshold": "不确定性阈值", "cascade": "级联", "pruning": "视觉 token 裁剪",
        "always_full": "始终 FULL", "always_coarse": "始终 COARSE", "no_vision": "无视觉", "oracle": "最优动作上界",
        "cost": "成本（FULL = 1）", "tokens_cost": "成本（视觉 token 数）", "accuracy": "准确率（%）",
        "share": "问题占比（%）", "kept": "剩余视觉 token 数", "no": "NO", "coarse": "COARSE", "full": "FULL",
        "stride": "等步长", "topk_norm": "范数 top-k", "random": "随机", "downsample": "缩小图像",
        "pool": "邻域平均", "lightvla": "LightVLA", "none": "均答错",
        "cheapest": "最低成本正确动作（占问题 %）",
        "wrong": "错误率（%）", "wilson": "95% Wilson 区间", "entropy": "熵", "margin": "间隔",
        "fallback": "带回退", "over_questions": "95% 置信区间（对问题自助采样）",
        "over_seeds": "95% 置信区间（问题与随机种子）", "deviation": "多随机种子的均值与标准差",
        "more": "另有 {} 条曲线见表格",
        "fair_oracle": "最优动作上界（去除猜对）", "unseen": "模型未针对更少的 token 训练",
        "global": "整个数据集", "entropy_buckets": "按熵分桶", "best": "最佳",
        "best_other": "其余最佳",
        "chosen": "学习策略：在验证集上选定的 λ", "errors": "各动作所答问题中的错误率",
        "oracle_title": "最低成本的正确动作（上界）",
    },
}  # fmt: skip
